#include "moe/operators/step_plan.hpp"

#include <algorithm>

namespace supernode::moe {

void StepPlan::build(std::span<const SequenceChunk> chunks, int max_tokens) {
  used_ = 0;
  logit_rows_ = 0;
  int room = 0;
  for (std::size_t index = 0; index < chunks.size(); ++index) {
    const SequenceChunk& chunk = chunks[index];
    const int total = static_cast<int>(chunk.tokens.size());
    for (int first = 0; first < total;) {
      if (room == 0) {
        if (used_ == slices_.size()) slices_.emplace_back();
        slices_[used_++].pieces.clear();
        room = max_tokens;
      }
      const int count = std::min(total - first, room);
      const int wanted = chunk.all_logits ? count : first + count == total ? 1 : 0;
      slices_[used_ - 1].pieces.push_back({static_cast<int>(index), first, count, wanted, logit_rows_});
      logit_rows_ += wanted;
      first += count;
      room -= count;
    }
  }
}

const StepPlan::Slice& StepPlan::slice(int index) const {
  const auto at = static_cast<std::size_t>(index);
  return at < used_ ? slices_[at] : empty_;
}

}  // namespace supernode::moe
