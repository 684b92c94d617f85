#pragma once
// How a step's tokens are cut into slices that fit the buffers, and slices into microbatches. Pure.

#include <span>
#include <vector>

#include "moe/sequence_chunk.hpp"

namespace supernode::moe {

/// Tokens keep their order: chunk after chunk; a chunk may be continued in the next slice. Slices are the same whatever
/// the number of microbatches: these halve a slice, at the end of a chunk or, within one, at a position that is a
/// multiple of `cut_unit`. That is where attention's blocks of queries end, so a row's bits do not depend on the cut.
///
/// Chunks that all ranks share (SequenceChunk::split_home) have slices of their own behind the others, the same on all
/// ranks: a range of tokens of one chunk, of which each rank has its share; of two microbatches each is such a range.
class StepPlan {
 public:
  static constexpr int cut_unit = 64;

  /// Tokens [first, first + count) of a chunk. The last `logit_count` of them get logits, in rows from first_logit_row.
  struct Piece {
    int chunk = 0, first = 0, count = 0, logit_count = 0, first_logit_row = 0;
    /// The tokens of the chunk that are in the slice, in whichever microbatch; of a shared one those that all ranks have
    /// in this microbatch.
    int whole_first = 0, whole_count = 0;
    bool shared = false;
    int rows_before = 0;  ///< tokens of the chunk that this rank has in pieces before this one
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

  /// The ranks that share a chunk.
  struct Ranks {
    int count = 1, mine = 0;
  };

  /// @param microbatches of a slice, 1 or 2. The caches of the chunks say where they begin. @pre shared chunks come last
  void build(std::span<const SequenceChunk> chunks, int max_tokens, int microbatches, Ranks ranks);
  void build(std::span<const SequenceChunk> chunks, int max_tokens, int microbatches = 1) {
    build(chunks, max_tokens, microbatches, Ranks{});
  }

  /// All of them, this rank's own first.
  std::span<const Slice> slices() const { return std::span(slices_).first(used_); }
  std::span<const Slice> shared_slices() const { return slices().subspan(own_); }
  int own_slices() const { return static_cast<int>(own_); }
  /// Of this rank's own. An empty one beyond the last: other ranks may have more.
  const Slice& slice(int index) const;
  int logit_rows() const { return logit_rows_; }
  /// Tokens of this rank.
  std::size_t rows() const { return rows_; }

 private:
  static void halve(Slice& slice, std::span<const SequenceChunk> chunks);
  Slice& next_slice();
  void add_own(std::span<const SequenceChunk> chunks, int max_tokens);
  void add_shared(const SequenceChunk& chunk, int index, int max_tokens, int microbatches, const Ranks& ranks);

  std::vector<Slice> slices_;  ///< of the largest step so far: later ones need no memory
  std::size_t used_ = 0, own_ = 0;
  Slice empty_;
  int logit_rows_ = 0;
  std::size_t rows_ = 0;
};

}  // namespace supernode::moe
