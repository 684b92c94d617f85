#include "collectives/rows/send_plan.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"

namespace supernode::collectives {

SendPlan::SendPlan(const ExpertPartition& experts, int topk, int max_tokens)
    : topk_(topk),
      rank_of_(static_cast<std::size_t>(experts.num_experts())),
      rows_to_(static_cast<std::size_t>(experts.ranks())),
      send_offset_(static_cast<std::size_t>(max_tokens) + 1),
      sends_(static_cast<std::size_t>(max_tokens) * static_cast<std::size_t>(std::min(topk, experts.ranks()))) {
  for (int expert = 0; expert < experts.num_experts(); ++expert) rank_of_[expert] = experts.rank_of(expert);
}

std::size_t SendPlan::bytes(const ExpertPartition& experts, int topk, int max_tokens) {
  const auto tokens = static_cast<std::size_t>(max_tokens);
  return sizeof(std::int32_t) * (static_cast<std::size_t>(experts.num_experts() + experts.ranks()) + tokens + 1) +
         sizeof(Send) * tokens * static_cast<std::size_t>(std::min(topk, experts.ranks()));
}

std::size_t SendPlan::allocated_bytes() const {
  return rank_of_.capacity() * sizeof rank_of_[0] + rows_to_.capacity() * sizeof rows_to_[0] +
         send_offset_.capacity() * sizeof send_offset_[0] + sends_.capacity() * sizeof sends_[0];
}

void SendPlan::build(std::span<const std::int32_t> expert_ids) {
  n_tokens_ = static_cast<int>(expert_ids.size()) / topk_;
  expect(static_cast<std::size_t>(n_tokens_) < send_offset_.size(), "more tokens than the exchange was built for");
  std::fill(rows_to_.begin(), rows_to_.end(), 0);
  std::int32_t n_sends = 0;
  for (int token = 0; token < n_tokens_; ++token) {
    // Insertion keeps the few ranks of a token sorted and distinct.
    const std::int32_t begin = n_sends;
    for (const std::int32_t expert : expert_ids.subspan(static_cast<std::size_t>(token) * topk_, topk_)) {
      if (expert == -1) continue;
      expect(expert >= 0 && static_cast<std::size_t>(expert) < rank_of_.size(), "expert id out of range");
      const std::int32_t rank = rank_of_[expert];
      std::int32_t at = n_sends;
      while (at > begin && sends_[at - 1].rank > rank) --at;
      if (at > begin && sends_[at - 1].rank == rank) continue;
      std::move_backward(sends_.begin() + at, sends_.begin() + n_sends, sends_.begin() + n_sends + 1);
      sends_[at] = {rank, rows_to_[rank]++};
      ++n_sends;
    }
    send_offset_[token] = begin;
  }
  send_offset_[n_tokens_] = n_sends;
}

}  // namespace supernode::collectives
