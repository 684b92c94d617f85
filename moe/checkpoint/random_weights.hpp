#pragma once
// Weights without files, for measurements.

#include <cstdint>

#include "moe/checkpoint/weight_store.hpp"

namespace supernode::moe {

/// Matrices uniform with variance 1 / columns, norms 1, biases 0; a function of (seed, tensor's name) only. Has every
/// tensor that is asked for, and lists none.
class RandomWeights : public WeightStore {
 public:
  explicit RandomWeights(std::uint64_t seed) : seed_(seed) {}

  bool has(const std::string&) override { return true; }
  std::vector<float> read(const std::string& tensor, std::span<const std::int64_t> shape) override;
  std::optional<Int8Matrix> read_int8(const std::string&, std::span<const std::int64_t>) override {
    return std::nullopt;
  }
  std::vector<std::string> names() override { return {}; }
  std::vector<TensorInfo> tensors() override { return {}; }

 private:
  std::uint64_t seed_;
};

}  // namespace supernode::moe
