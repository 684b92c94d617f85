#pragma once
// How a step's tokens are cut into slices that fit the buffers, and slices into microbatches. Pure.

#include <span>
#include <vector>

#include "moe/sequence_chunk.hpp"

namespace supernode::moe {

/// Tokens keep their order: chunk after chunk; a chunk may be continued in the next slice. Slices are the same whatever
/// the number of microbatches: these halve a slice, at the end of a chunk or, within one, at a position that is a
/// multiple of `cut_unit`. That is where attention's blocks of queries end, so a row's bits do not depend on the cut.
class StepPlan {
 public:
  static constexpr int cut_unit = 64;

  /// Tokens [first, first + count) of a chunk. The last `logit_count` of them get logits, in rows from first_logit_row.
  struct Piece {
    int chunk = 0, first = 0, count = 0, logit_count = 0, first_logit_row = 0;
    /// The tokens of the chunk that are in the slice, in whichever microbatch.
    int whole_first = 0, whole_count = 0;
  };
  struct Slice {
    std::vector<Piece> pieces;
    std::size_t second = 0;  ///< first piece of the second microbatch; pieces.size() without one

    std::span<const Piece> microbatch(int index) const {
      const std::span<const Piece> all(pieces);
      return index == 0 ? all.first(second) : all.subspan(second);
    }
  };

  /// Most tokens that a microbatch has.
  static int most_rows(int max_tokens, int microbatches);

  /// @param microbatches of a slice, 1 or 2. The caches of the chunks say where they begin.
  void build(std::span<const SequenceChunk> chunks, int max_tokens, int microbatches = 1);

  std::span<const Slice> slices() const { return std::span(slices_).first(used_); }
  /// An empty one beyond the last: other ranks may have more.
  const Slice& slice(int index) const;
  int logit_rows() const { return logit_rows_; }

 private:
  static void halve(Slice& slice, std::span<const SequenceChunk> chunks);

  std::vector<Slice> slices_;  ///< of the largest step so far: later ones need no memory
  std::size_t used_ = 0;
  Slice empty_;
  int logit_rows_ = 0;
};

}  // namespace supernode::moe
