#pragma once
// Which rank holds which physical expert: contiguous blocks in rank order. Pure.

#include <algorithm>

namespace supernode::collectives {

/// Experts [0, num_experts) over `ranks`: the first num_experts % ranks ranks hold one more than the others; with fewer
/// experts than ranks the last ranks hold none.
class ExpertPartition {
 public:
  constexpr ExpertPartition(int num_experts, int ranks)
      : num_experts_(num_experts), ranks_(ranks), share_(num_experts / ranks), extra_(num_experts % ranks) {}

  constexpr int num_experts() const { return num_experts_; }
  constexpr int ranks() const { return ranks_; }
  /// The first expert of `rank`; first(ranks()) is num_experts().
  constexpr int first(int rank) const { return rank * share_ + std::min(rank, extra_); }
  constexpr int count(int rank) const { return share_ + (rank < extra_ ? 1 : 0); }
  /// The most experts that a rank holds.
  constexpr int max_count() const { return share_ + (extra_ > 0 ? 1 : 0); }
  constexpr int rank_of(int expert) const {
    const int in_larger_blocks = extra_ * (share_ + 1);
    return expert < in_larger_blocks ? expert / (share_ + 1) : extra_ + (expert - in_larger_blocks) / share_;
  }

 private:
  int num_experts_, ranks_, share_, extra_;
};

}  // namespace supernode::collectives
