#pragma once
// Writing rows and sums to where they travel from.

#include <cstddef>
#include <cstdint>
#include <span>

#include "collectives/algorithms/round.hpp"
#include "collectives/rows/send_plan.hpp"
#include "runtime/core/quantise.hpp"

namespace supernode::collectives {

/// What dispatch was called with.
struct TokensToSend {
  std::span<const float> rows;
  std::span<const std::int32_t> expert_ids;
  std::span<const float> weights;
};

/// Writes this rank's messages: for rank r at to[r], of plan.rows_to(r) rows. Each row is quantised once.
void write_messages(const ExchangeSetup& setup, const SendPlan& plan, const TokensToSend& tokens,
                    std::span<std::byte* const> to, Stores stores);

/// Rows that are written one after another. Ranks may share a stream, then a row that several of them get is written
/// once.
struct RowStream {
  std::byte* rows = nullptr;
  std::int32_t n_rows = 0;
  int last_token = -1;
};
/// Where what goes to one rank is written.
struct RowTarget {
  std::byte* routing = nullptr;
  std::int32_t* index = nullptr;  ///< gets each row's place in the stream; null: not wanted
  RowStream* stream = nullptr;
};
/// As write_messages, to targets [ranks] of any form. Streams start empty.
void write_rows(const ExchangeSetup& setup, const SendPlan& plan, const TokensToSend& tokens,
                std::span<const RowTarget> targets, Stores stores);

/// Writes the combine message to `rank`: the sums of the rows that came from there.
void write_sums(const Round& round, int rank, std::byte* to, Stores stores);

}  // namespace supernode::collectives
