#pragma once
// Large arrays in an HDF5 file, read and written by rows of their first dimension. For weights; results go to
// result_file.hpp.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/element_type.hpp"
#include "runtime/core/new_file.hpp"

namespace supernode {

struct ArrayInfo {
  /// f32, int8 or bf16, which is stored as a 16-bit float type of its own that HDF5's tools understand.
  ElementType type = ElementType::f32;
  std::vector<std::int64_t> shape;  ///< at least one dimension

  /// Bytes of the array, and of one index of its first dimension.
  std::size_t bytes() const;
  std::size_t row_bytes() const;
};

/// How an array lies in its file: as one piece, or each row as a chunk of its own, so that a reader of one touches no
/// other.
enum class ArrayLayout { whole, by_row };

/// A new file of named arrays and text attributes, which stands under its name from close() on; one that was not closed
/// leaves nothing. Local, not thread-safe. Every method throws EnvironmentError naming the file, and the system's
/// reason, when the disk or HDF5 refuses.
class ArrayFileWriter {
 public:
  /// @throws as NewFile.
  explicit ArrayFileWriter(const std::string& path, IfExists if_exists = IfExists::refuse);
  ~ArrayFileWriter();
  ArrayFileWriter(const ArrayFileWriter&) = delete;
  ArrayFileWriter& operator=(const ArrayFileWriter&) = delete;

  void attribute(const std::string& name, const std::string& text);
  /// `name` holds no '/'.
  void create(const std::string& name, const ArrayInfo& info, ArrayLayout layout = ArrayLayout::whole);
  /// Rows [row, row + n) of an array that was created; `bytes` holds n of them.
  void write_rows(const std::string& name, std::size_t row, std::span<const std::byte> bytes);
  /// Flushes, closes, and gives the file its name. The last call.
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// An existing file. Local, read-only and without locks: any number of processes read the same one. Not thread-safe.
class ArrayFile {
 public:
  /// Reads the directory of the file. @throws UsageError naming it when it is missing, truncated, no HDF5 file, or
  /// holds something else than arrays of the types above.
  explicit ArrayFile(const std::string& path);
  /// The same of a file whose bytes are in memory; `path` is its name in messages.
  ArrayFile(const std::string& path, std::vector<std::byte> image);
  ~ArrayFile();
  ArrayFile(ArrayFile&&) noexcept;
  ArrayFile& operator=(ArrayFile&&) noexcept;

  const std::string& path() const;
  const std::map<std::string, ArrayInfo>& arrays() const;
  /// Null when there is none of that name.
  const ArrayInfo* find(const std::string& name) const;
  /// "" when there is no such text attribute.
  std::string attribute(const std::string& name) const;
  /// Fills `out`, n rows long, with rows [row, row + n). @throws UsageError when they cannot be read.
  void read_rows(const std::string& name, std::size_t row, std::span<std::byte> out) const;

 private:
  void read_directory();

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode
