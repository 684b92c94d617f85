#include "moe/operators/step_plan.hpp"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace supernode::moe {

int StepPlan::most_rows(int max_tokens, int microbatches) {
  // A cut lies within a unit of the middle.
  return microbatches == 1 ? max_tokens : std::min(max_tokens, (max_tokens + 1) / 2 + cut_unit);
}

void StepPlan::build(std::span<const SequenceChunk> chunks, int max_tokens, int microbatches) {
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
      slices_[used_ - 1].pieces.push_back({static_cast<int>(index), first, count, wanted, logit_rows_, first, count});
      logit_rows_ += wanted;
      first += count;
      room -= count;
    }
  }
  for (Slice& slice : std::span(slices_).first(used_)) {
    slice.second = slice.pieces.size();
    if (microbatches > 1) halve(slice, chunks);
  }
}

void StepPlan::halve(Slice& slice, std::span<const SequenceChunk> chunks) {
  const int rows = std::accumulate(slice.pieces.begin(), slice.pieces.end(), 0,
                                   [](int sum, const Piece& piece) { return sum + piece.count; });
  // Rows before the cut, the nearest to the middle that leaves both microbatches something; else all.
  int best = rows;
  std::size_t at = slice.pieces.size();  // the piece that the cut is in front of, or within
  const auto consider = [&](int before, std::size_t piece) {
    if (before == 0 || before == rows) return;
    if (best < rows && std::abs(2 * before - rows) >= std::abs(2 * best - rows)) return;
    best = before;
    at = piece;
  };
  int before = 0;
  for (std::size_t i = 0; i < slice.pieces.size(); ++i) {
    const Piece& piece = slice.pieces[i];
    consider(before, i);
    const int position = chunks[static_cast<std::size_t>(piece.chunk)].cache->length() + piece.first;
    for (int inside = cut_unit - position % cut_unit; inside < piece.count; inside += cut_unit)
      consider(before + inside, i);
    before += piece.count;
  }
  slice.second = at;
  if (best == rows) return;
  int into = best;  // rows of the piece in front of the cut
  for (std::size_t i = 0; i < at; ++i) into -= slice.pieces[i].count;
  if (into == 0) return;
  Piece& front = slice.pieces[at];
  Piece back = front;
  back.first += into;
  back.count -= into;
  back.logit_count = std::min(front.logit_count, back.count);
  front.count = into;
  front.logit_count -= back.logit_count;
  back.first_logit_row += front.logit_count;
  slice.second = at + 1;
  slice.pieces.insert(slice.pieces.begin() + static_cast<std::ptrdiff_t>(slice.second), back);
}

const StepPlan::Slice& StepPlan::slice(int index) const {
  const auto at = static_cast<std::size_t>(index);
  return at < used_ ? slices_[at] : empty_;
}

}  // namespace supernode::moe
