#pragma once
// How large an algorithm's buffers are: written once for each algorithm, for the planner and for the constructor.

#include <cstddef>
#include <vector>

#include "collectives/algorithms/setup.hpp"
#include "runtime/core/buffer.hpp"

namespace supernode::collectives {

/// Bytes of each buffer of an algorithm on one rank. An algorithm gets its memory by its plan only, so what the plan
/// adds up is what is allocated.
struct BufferPlan {
  std::size_t segment = 0;                 ///< of HostMemory, with its overhead, for all rounds; 0: none
  std::vector<std::size_t> of_round = {};  ///< the buffers of each round in flight
  std::size_t scratch = 0;                 ///< used within one call

  std::size_t bytes() const;
};

/// The buffers of a plan, but for the segment.
class PlannedBuffers {
 public:
  explicit PlannedBuffers(const BufferPlan& plan);

  /// Buffer `which` of the plan's of_round, for the rounds that use `set`.
  std::byte* of_round(int set, std::size_t which) {
    return of_round_[static_cast<std::size_t>(set) * per_round_ + which].data();
  }
  std::byte* scratch() { return scratch_.data(); }
  std::size_t allocated_bytes() const;

 private:
  std::size_t per_round_;
  std::vector<Buffer<std::byte>> of_round_;
  Buffer<std::byte> scratch_;
};

}  // namespace supernode::collectives
