#pragma once
// What every form of a checkpoint holds.

#include <cstdint>
#include <string>
#include <vector>

namespace supernode::moe {

/// What a checkpoint holds under one name.
struct TensorInfo {
  std::string name;
  std::string type;  ///< as stored: "F32", "bf16", "int8", ...
  std::vector<std::int64_t> shape;
  std::uint64_t bytes = 0;  ///< as stored, with scales
};

/// A matrix [outputs, inputs] in int8: weight[o][i] = integers[o][i] * scales[o].
struct Int8Matrix {
  std::vector<std::int8_t> integers;
  std::vector<float> scales;
};

}  // namespace supernode::moe
