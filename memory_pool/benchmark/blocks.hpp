#pragma once
// The blocks of the benchmark: what is in them, and which one is next. Pure.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/core/random.hpp"

namespace supernode::pool::internal {

/// Block `number` of `version`: every word names both and its place.
void fill_block(std::span<std::byte> block, std::uint64_t number, std::uint64_t version);
bool is_block(std::span<const std::byte> block, std::uint64_t number, std::uint64_t version);

/// Draws block numbers below `keys`: all alike, or number i with weight 1/(i+1)^alpha (Zipf's law).
class Draw {
 public:
  /// @param alpha 0: all alike
  Draw(std::uint64_t keys, double alpha, std::uint64_t seed, std::uint64_t stream);
  std::uint64_t next();
  double uniform() { return random_.uniform(); }  ///< in [0, 1)

 private:
  std::uint64_t keys_;
  Random random_;
  std::vector<double> cumulative_;
};

}  // namespace supernode::pool::internal
