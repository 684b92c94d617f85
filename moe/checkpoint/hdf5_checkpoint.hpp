#pragma once
// A model in one HDF5 file, as `supernode import` writes it.
//   attributes of "/": format, version, config (the text of config.json), dtype
//   a tensor           an array of its name
//   expert tensors     model.layers.3.mlp.experts.*.gate_proj.weight [experts, out, in], a chunk for each expert
//   int8 arrays        beside them <name>.scale, f32, one for each output channel: [out] or [experts, out];
//                      weight[o][i] = int8[o][i] * scale[o]

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moe/checkpoint/weight_store.hpp"
#include "runtime/core/array_file.hpp"
#include "runtime/core/file_source.hpp"

namespace supernode::moe {

/// Where a tensor is inside the file.
struct ArrayPlace {
  std::string array;
  std::int64_t row = -1;  ///< the expert; -1: the whole array
};
ArrayPlace place_of_tensor(const std::string& tensor);

/// Reads such a file. Local: each process opens it for itself, and reads what it asks for only. Not thread-safe.
class Hdf5Checkpoint : public WeightStore {
 public:
  static constexpr const char* format_name = "supernode checkpoint";
  static constexpr const char* version = "1";

  /// @throws UsageError naming the file: missing, truncated, no HDF5, not of this format or version.
  explicit Hdf5Checkpoint(const std::string& path);
  /// The same of a file in `source`, which is copied into memory as a whole.
  Hdf5Checkpoint(FileSource& source, const std::string& name);

  std::string config_text() const { return file_.attribute("config"); }
  bool has(const std::string& tensor) override;
  /// @throws as WeightStore says; also for a scale that is missing, misshapen, not finite or not positive.
  std::vector<float> read(const std::string& tensor, std::span<const std::int64_t> shape) override;
  std::optional<Int8Matrix> read_int8(const std::string& tensor, std::span<const std::int64_t> shape) override;
  /// Experts one by one.
  std::vector<std::string> names() override;
  std::vector<TensorInfo> tensors() override;

 private:
  /// The array that holds `tensor`. @throws UsageError when it is missing or of another shape.
  const ArrayInfo& info_of(const std::string& tensor, const ArrayPlace& place, std::span<const std::int64_t> shape);
  std::vector<float> read_scales(const std::string& tensor, const ArrayPlace& place, std::int64_t channels) const;

  void check(const std::string& path) const;

  ArrayFile file_;
};

}  // namespace supernode::moe
