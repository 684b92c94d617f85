#include "moe/operators/step_plan.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>

namespace supernode::moe {

int StepPlan::most_rows(int max_tokens, int microbatches) {
  // A cut lies within a unit of the middle.
  return microbatches == 1 ? max_tokens : std::min(max_tokens, (max_tokens + 1) / 2 + cut_unit);
}

void StepPlan::build(std::span<const SequenceChunk> chunks, int max_tokens, int microbatches, Ranks ranks) {
  used_ = rows_ = 0;
  logit_rows_ = 0;
  const auto shared =
      std::ranges::find_if(chunks, [](const SequenceChunk& chunk) { return chunk.split_home.has_value(); });
  const auto own = static_cast<std::size_t>(shared - chunks.begin());
  add_own(chunks.first(own), max_tokens);
  own_ = used_;
  for (Slice& slice : std::span(slices_).first(own_)) {
    slice.second = slice.pieces.size();
    if (microbatches > 1) halve(slice, chunks);
  }
  for (std::size_t i = own; i < chunks.size(); ++i)
    add_shared(chunks[i], static_cast<int>(i), max_tokens, microbatches, ranks);
  for (const Slice& slice : slices())
    for (const Piece& piece : slice.pieces) rows_ += static_cast<std::size_t>(piece.count);
}

StepPlan::Slice& StepPlan::next_slice() {
  if (used_ == slices_.size()) slices_.emplace_back();
  Slice& slice = slices_[used_++];
  slice.pieces.clear();
  return slice;
}

void StepPlan::add_own(std::span<const SequenceChunk> chunks, int max_tokens) {
  int room = 0;
  for (std::size_t index = 0; index < chunks.size(); ++index) {
    const SequenceChunk& chunk = chunks[index];
    const int total = static_cast<int>(chunk.tokens.size());
    for (int first = 0; first < total;) {
      if (room == 0) {
        next_slice();
        room = max_tokens;
      }
      const int count = std::min(total - first, room);
      const int wanted = chunk.all_logits ? count : first + count == total ? 1 : 0;
      slices_[used_ - 1].pieces.push_back(
          {static_cast<int>(index), first, count, wanted, logit_rows_, first, count, false, first});
      logit_rows_ += wanted;
      first += count;
      room -= count;
    }
  }
}

void StepPlan::add_shared(const SequenceChunk& chunk, int index, int max_tokens, int microbatches, const Ranks& ranks) {
  const int total = static_cast<int>(chunk.tokens.size()), start = chunk.cache->length();
  int rows_before = 0;
  const auto add = [&](Slice& slice, int first, int count) {
    const TokenShare share = share_of(count, ranks.count, ranks.mine, *chunk.split_home);
    const bool last = first + count == total && ranks.mine == *chunk.split_home;
    const int wanted = chunk.all_logits ? share.count : last ? 1 : 0;
    slice.pieces.push_back(
        {index, first + share.first, share.count, wanted, logit_rows_, first, count, true, rows_before});
    logit_rows_ += wanted;
    rows_before += share.count;
  };
  for (int first = 0; first < total;) {
    const auto count = static_cast<int>(std::min<std::int64_t>(total - first, std::int64_t{max_tokens} * ranks.count));
    Slice& slice = next_slice();
    // The cut next to the middle.
    const int half = (start + first + count / 2 + cut_unit / 2) / cut_unit * cut_unit - (start + first);
    const bool cut = microbatches > 1 && half > 0 && half < count;
    add(slice, first, cut ? half : count);
    slice.second = 1;
    if (cut) add(slice, first + half, count - half);
    first += count;
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
  back.rows_before += into;
  slice.second = at + 1;
  slice.pieces.insert(slice.pieces.begin() + static_cast<std::ptrdiff_t>(slice.second), back);
}

const StepPlan::Slice& StepPlan::slice(int index) const {
  const auto at = static_cast<std::size_t>(index);
  return at < own_ ? slices_[at] : empty_;
}

}  // namespace supernode::moe
