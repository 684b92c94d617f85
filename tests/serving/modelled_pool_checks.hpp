#pragma once
// What holds for the counts of any modelled pool.

#include "runtime/serving/coordinator/modelled_pool.hpp"
#include "tests/support/catch.hpp"

namespace supernode::test {

inline std::uint64_t misses(const serving::ModelledPool& pool, serving::BlockMiss reason) {
  return pool.stats().misses[static_cast<std::size_t>(reason)];
}

inline void check_sums(const serving::ModelledPool& pool) {
  const serving::ModelledPoolStats& stats = pool.stats();
  std::uint64_t missed = 0;
  for (const std::uint64_t count : stats.misses) missed += count;
  CHECK(stats.asked == stats.hits + missed);
  CHECK(stats.offered == stats.announced + stats.already_there + stats.too_large);
  CHECK(stats.stored <= stats.announced);
  std::int64_t bytes = 0;
  for (const serving::ModelledPoolStats::Owner& owner : stats.owners) {
    CHECK(owner.bytes >= 0);
    CHECK(owner.bytes <= owner.high_watermark);
    CHECK(owner.high_watermark <= pool.config().capacity_bytes);
    bytes += owner.bytes;
  }
  CHECK(bytes == static_cast<std::int64_t>(stats.stored - stats.evicted) * pool.config().block_bytes);
}

}  // namespace supernode::test
