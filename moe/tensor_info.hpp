#pragma once
// What every form of a checkpoint holds.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace supernode::moe {

/// What a checkpoint holds under one name.
struct TensorInfo {
  std::string name;
  std::string type;  ///< as stored: "F32", "bf16", "int8", ...
  std::vector<std::int64_t> shape;
  std::uint64_t bytes = 0;  ///< as stored, with scales
};

/// Whether Checkpoint::read() turns a type, as TensorInfo has it, into f32.
inline bool has_f32_form(std::string_view type) {
  for (const std::string_view known : {"F32", "BF16", "F16", "F64", "f32", "bf16", "int8"})
    if (type == known) return true;
  return false;
}

/// A matrix [outputs, inputs] in int8: weight[o][i] = integers[o][i] * scales[o].
struct Int8Matrix {
  std::vector<std::int8_t> integers;
  std::vector<float> scales;
};

}  // namespace supernode::moe
