#include "moe/checkpoint/random_weights.hpp"

#include <cmath>

#include "runtime/core/random.hpp"

namespace supernode::moe {

std::vector<float> RandomWeights::read(const std::string& tensor, std::span<const std::int64_t> shape) {
  std::size_t count = 1;
  for (const std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
  if (shape.size() < 2) return std::vector<float>(count, tensor.ends_with("bias") ? 0.0f : 1.0f);
  std::uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : tensor) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  const std::uint64_t key = mix64(seed_ ^ hash);
  const float spread = std::sqrt(3.0f / static_cast<float>(shape.back()));
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = (static_cast<float>(mix64(key + i) >> 40) * 0x1.0p-23f - 1.0f) * spread;
  return values;
}

}  // namespace supernode::moe
