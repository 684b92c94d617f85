#pragma once
// Where the tensors of a checkpoint come from: safetensors, our HDF5 file, or a random generator.

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moe/tensor_info.hpp"

namespace supernode::moe {

/// Tensors by name. Local; not thread-safe, since files are opened when they are needed first.
class WeightStore {
 public:
  virtual ~WeightStore() = default;

  virtual bool has(const std::string& tensor) = 0;
  /// The elements as f32, row-major. @throws UsageError naming file and tensor when it is missing, of another shape or
  /// an unsupported type, or holds a value that is not finite.
  virtual std::vector<float> read(const std::string& tensor, std::span<const std::int64_t> shape) = 0;
  /// A matrix in int8 as it is stored; nothing if it is stored otherwise. @throws as read().
  virtual std::optional<Int8Matrix> read_int8(const std::string& tensor, std::span<const std::int64_t> shape) = 0;
  /// The names of all tensors, without opening more files than are open.
  virtual std::vector<std::string> names() = 0;
  /// All tensors, by name; opens every file.
  virtual std::vector<TensorInfo> tensors() = 0;
};

}  // namespace supernode::moe
