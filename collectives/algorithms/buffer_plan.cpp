#include "collectives/algorithms/buffer_plan.hpp"

#include <numeric>

namespace supernode::collectives {

std::size_t BufferPlan::bytes() const {
  return segment + n_round_sets * std::accumulate(of_round.begin(), of_round.end(), std::size_t{0}) + scratch;
}

PlannedBuffers::PlannedBuffers(const BufferPlan& plan) : per_round_(plan.of_round.size()), scratch_(plan.scratch) {
  of_round_.reserve(n_round_sets * per_round_);
  for (int set = 0; set < n_round_sets; ++set)
    for (const std::size_t bytes : plan.of_round) of_round_.emplace_back(bytes);
}

std::size_t PlannedBuffers::allocated_bytes() const {
  std::size_t bytes = scratch_.size();
  for (const Buffer<std::byte>& buffer : of_round_) bytes += buffer.size();
  return bytes;
}

}  // namespace supernode::collectives
