#pragma once
// Every offset of the exchange, computed here only. Pure.
//
// A message carries the rows that one rank sends to another. Its form depends on the number of rows alone:
//
//   dispatch: | routing record of each row | to 64 bytes | row | row | ...      combine: | row | row | ...
//
// Rows start at multiples of 64 bytes, and every message is a whole number of these lines. A routing record is
// {f32 scale, i32 n} and topk places {i32 local expert, f32 weight}, of which n are used.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "collectives/expert_partition.hpp"
#include "collectives/payload.hpp"

namespace supernode::collectives {

inline constexpr std::size_t line_bytes = 64;

constexpr std::size_t whole_lines(std::size_t bytes) { return (bytes + line_bytes - 1) / line_bytes * line_bytes; }

struct RoutingHead {
  float scale;
  std::int32_t n_experts;
};
struct RoutingPlace {
  std::int32_t local_expert;
  float weight;
};

/// The form of a dispatch message.
class DispatchLayout {
 public:
  constexpr DispatchLayout(Payload payload, int hidden, int topk)
      : row_stride_(whole_lines(element_bytes(payload) * static_cast<std::size_t>(hidden))),
        routing_stride_(sizeof(RoutingHead) + sizeof(RoutingPlace) * static_cast<std::size_t>(topk)) {}

  constexpr std::size_t routing_offset(int row) const { return routing_stride_ * static_cast<std::size_t>(row); }
  constexpr std::size_t row_offset(int n_rows, int row) const {
    return whole_lines(routing_offset(n_rows)) + row_stride_ * static_cast<std::size_t>(row);
  }
  constexpr std::size_t bytes(int n_rows) const { return row_offset(n_rows, n_rows); }
  constexpr std::size_t row_stride() const { return row_stride_; }
  constexpr std::size_t routing_stride() const { return routing_stride_; }
  /// At least the sum of bytes() over `n_messages` messages with `n_rows` rows together.
  constexpr std::size_t bytes(std::size_t n_rows, std::size_t n_messages) const {
    return n_rows * (routing_stride_ + row_stride_) + n_messages * line_bytes;
  }

 private:
  std::size_t row_stride_, routing_stride_;
};

/// The form of a combine message; its rows come in the order of the dispatch message that they answer.
class CombineLayout {
 public:
  constexpr CombineLayout(Payload payload, int hidden)
      : row_stride_(whole_lines(element_bytes(payload) * static_cast<std::size_t>(hidden))) {}
  constexpr std::size_t row_stride() const { return row_stride_; }
  constexpr std::size_t row_offset(int row) const { return row_stride_ * static_cast<std::size_t>(row); }
  constexpr std::size_t bytes(int n_rows) const { return row_offset(n_rows); }

 private:
  std::size_t row_stride_;
};

/// The form of a bundle: what one rank has for all members of a host, each row once, whoever of them gets it.
///
///   | rows for each member (int) | to 64 bytes | member | member | ... | row | row | ...
///   member: | routing record of each of its rows | index of each among the rows of the bundle (int) | to 64 bytes
class BundleLayout {
 public:
  constexpr explicit BundleLayout(const DispatchLayout& messages)
      : row_stride_(messages.row_stride()), routing_stride_(messages.routing_stride()) {}

  static constexpr std::size_t head_bytes(int members) {
    return whole_lines(sizeof(std::int32_t) * static_cast<std::size_t>(members));
  }
  /// Within a member's part, which has `rows` rows.
  constexpr std::size_t index_offset(int rows) const { return routing_stride_ * static_cast<std::size_t>(rows); }
  constexpr std::size_t member_bytes(int rows) const {
    return whole_lines(index_offset(rows) + sizeof(std::int32_t) * static_cast<std::size_t>(rows));
  }
  constexpr std::size_t row_stride() const { return row_stride_; }
  /// Everything but the rows, when no member gets more than `rows`.
  constexpr std::size_t most_routing_bytes(int rows, int members) const {
    return head_bytes(members) + member_bytes(rows) * static_cast<std::size_t>(members);
  }
  /// Largest bundle of `tokens` tokens.
  constexpr std::size_t most_bytes(int tokens, int members) const {
    return most_routing_bytes(tokens, members) + row_stride_ * static_cast<std::size_t>(tokens);
  }

 private:
  std::size_t row_stride_, routing_stride_;
};

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

  /// `expert_ids` [n_tokens, topk], -1 = none; n_tokens <= max_tokens. Allocates nothing.
  /// Panics for an id outside [-1, num_experts).
  void build(std::span<const std::int32_t> expert_ids);

  int n_tokens() const { return n_tokens_; }
  /// The rows in which a token travels, ascending in rank, each rank once. Tokens are in order in every message.
  std::span<const Send> sends_of(int token) const {
    return {sends_.data() + send_offset_[token], sends_.data() + send_offset_[token + 1]};
  }
  int rows_to(int rank) const { return rows_to_[rank]; }
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
