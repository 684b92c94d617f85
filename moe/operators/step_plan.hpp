#pragma once
// How a step's tokens are cut into slices that fit the buffers. Pure.

#include <span>
#include <vector>

#include "moe/sequence_chunk.hpp"

namespace supernode::moe {

/// Tokens keep their order: chunk after chunk; a chunk may be continued in the next slice.
class StepPlan {
 public:
  /// Tokens [first, first + count) of a chunk. The last `logit_count` of them get logits, in rows from first_logit_row.
  struct Piece {
    int chunk = 0, first = 0, count = 0, logit_count = 0, first_logit_row = 0;
  };
  struct Slice {
    std::vector<Piece> pieces;
  };

  void build(std::span<const SequenceChunk> chunks, int max_tokens);

  std::span<const Slice> slices() const { return std::span(slices_).first(used_); }
  /// An empty one beyond the last: other ranks may have more.
  const Slice& slice(int index) const;
  int logit_rows() const { return logit_rows_; }

 private:
  std::vector<Slice> slices_;  ///< of the largest step so far: later ones need no memory
  std::size_t used_ = 0;
  Slice empty_;
  int logit_rows_ = 0;
};

}  // namespace supernode::moe
