#pragma once
// The safetensors format: 8 bytes of header length (little endian), a JSON header {name: {dtype, shape, data_offsets}},
// then the data. Read through a mapping, every field checked before use; written for results.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moe/checkpoint/mapped_file.hpp"
#include "moe/tensor_info.hpp"
#include "runtime/core/element_type.hpp"
#include "runtime/core/new_file.hpp"

namespace supernode::moe {

/// The type as the header of a file spells it: "F32", "BF16", ...
std::string_view element_name(ElementType type);

/// A tensor inside a mapped file; valid as long as the file object. `bytes` may be unaligned.
struct TensorView {
  ElementType type{};
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;

  std::size_t size() const { return bytes.size() / element_bytes(type); }  ///< elements
};

/// "[3, 20]"
std::string shape_text(std::span<const std::int64_t> shape);

/// One .safetensors file.
class SafetensorsFile {
 public:
  /// Maps the file and checks the whole header: length within the file, JSON, sizes that match shapes and types,
  /// offsets inside the data and not overlapping. @throws UsageError naming the file and the tensor.
  explicit SafetensorsFile(const std::string& path);
  /// The same of a file in `source`; at() reads what it returns.
  SafetensorsFile(std::shared_ptr<FileSource> source, const std::string& name);

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  /// Tensors of types that are not known here, by name: they may be there as long as nobody asks for them.
  const std::map<std::string, TensorInfo>& unknown() const { return unknown_; }
  /// Null when there is none of that name. Its bytes may only be looked at after at().
  const TensorView* find(const std::string& name) const;
  /// @throws UsageError naming the file and the tensor when it is missing or of a type that is not known here.
  const TensorView& at(const std::string& name) const;

 private:
  void open();
  void parse_header(std::string_view header, std::span<const std::byte> data);

  std::string path_;
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, TensorInfo> unknown_;
};

/// Copies `tensor` (F32, BF16, F16 or F64) into `out`, out.size() = tensor.size(). @returns false for another type.
bool convert_to_f32(const TensorView& tensor, std::span<float> out);

/// Copies an I32 or I64 tensor. @returns false for another type or a value outside 32 bits.
bool convert_to_i32(const TensorView& tensor, std::span<std::int32_t> out);

/// A tensor to be written; `data` holds the elements of `shape` in row-major order.
struct TensorToWrite {
  std::string name;
  ElementType type{};
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
};

/// Writes a file. Local. @throws as NewFile; nothing is left then.
void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                       IfExists if_exists = IfExists::refuse);

}  // namespace supernode::moe
