#pragma once
// The share of a trace's blocks that a pool of some capacity would have held.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode::pool {

/// One row of a hit-rate curve.
struct HitRate {
  std::uint64_t capacity_blocks = 0;  ///< of the pool, below the eviction watermark
  std::uint64_t asked = 0, hits = 0;  ///< blocks; a block counts as hit when all before it in its request are hits, too
  std::uint64_t evictions = 0;
};

/// Replays the blocks of requests through a pool that holds `capacity_blocks` of them: longest prefix, then the missing
/// blocks are stored. The pool is an owner and a client in this process; local, `self` has one rank.
/// @param requests block ids of each request; an id stands for its block and all before it.
HitRate replay_blocks(const Communicator& self, std::span<const std::vector<std::int64_t>> requests,
                      std::uint64_t capacity_blocks);

}  // namespace supernode::pool
