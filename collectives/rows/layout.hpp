#pragma once
// The form of the exchange's messages: every offset in them is computed here only.
//
// A message carries the rows that one rank sends to another. Its form depends on the number of rows alone:
//
//   dispatch: | routing record of each row | to 64 bytes | row | row | ...      combine: | row | row | ...
//
// Rows start at multiples of 64 bytes, and every message is a whole number of these lines. A routing record is
// {f32 scale, i32 n} and topk places {i32 local expert, f32 weight}, of which n are used.

#include <algorithm>
#include <cstddef>
#include <cstdint>

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
  /// @param least_row_bytes a shorter row is padded to them
  constexpr DispatchLayout(Payload payload, int hidden, int topk, int least_row_bytes = 0)
      : row_stride_(whole_lines(std::max(element_bytes(payload) * static_cast<std::size_t>(hidden),
                                         static_cast<std::size_t>(least_row_bytes)))),
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

}  // namespace supernode::collectives
