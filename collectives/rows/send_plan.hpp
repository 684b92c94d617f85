#pragma once
// Who gets which token of a dispatch.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "collectives/expert_partition.hpp"

namespace supernode::collectives {

/// One token's row in the message to `rank`: the `index`-th there.
struct Send {
  std::int32_t rank, index;
};

/// Who gets which token: the plan of one rank's dispatch, and of the combine that answers it.
class SendPlan {
 public:
  SendPlan(const ExpertPartition& experts, int topk, int max_tokens);
  /// Bytes that a plan allocates.
  static std::size_t bytes(const ExpertPartition& experts, int topk, int max_tokens);
  std::size_t allocated_bytes() const;  ///< what this one has allocated

  /// `expert_ids` [n_tokens, topk], -1 = none; n_tokens <= max_tokens. Allocates nothing.
  /// Panics for an id outside [-1, num_experts).
  void build(std::span<const std::int32_t> expert_ids);

  int n_tokens() const { return n_tokens_; }
  /// The rows in which a token travels, ascending in rank, each rank once. Tokens are in order in every message.
  std::span<const Send> sends_of(int token) const {
    return {sends_.data() + send_offset_[token], sends_.data() + send_offset_[token + 1]};
  }
  int rows_to(int rank) const { return rows_to_[rank]; }
  std::span<const int> rows_to() const { return rows_to_; }  ///< [ranks]
  /// Rows to all ranks together.
  int n_rows() const { return send_offset_[n_tokens_]; }
  int rank_of(int expert) const { return rank_of_[expert]; }

 private:
  int topk_, n_tokens_ = 0;
  std::vector<std::int32_t> rank_of_;      // [num_experts]
  std::vector<int> rows_to_;               // [ranks]
  std::vector<std::int32_t> send_offset_;  // [max_tokens + 1] into sends_
  std::vector<Send> sends_;                // [max_tokens * min(topk, ranks)]
};

}  // namespace supernode::collectives
