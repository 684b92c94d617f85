#pragma once
// What an exchange remembers of a round in flight, and what its algorithms share.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "collectives/host_map.hpp"
#include "collectives/layout.hpp"
#include "collectives/token_exchange.hpp"
#include "runtime/core/buffer.hpp"
#include "runtime/core/quantise.hpp"

namespace supernode::collectives {

/// What everything in an exchange knows; equal on all ranks but for the rank.
struct ExchangeSetup {
  ExchangeSetup(const ExchangeConfig& exchange_config, int this_rank, HostMap host_map)
      : config(exchange_config),
        rank(this_rank),
        n_ranks(host_map.ranks()),
        hosts(std::move(host_map)),
        experts(config.num_experts, n_ranks),
        dispatch(config.dispatch_payload, config.hidden, config.topk),
        combine(config.combine_payload, config.hidden) {}

  ExchangeConfig config;
  int rank, n_ranks;
  HostMap hosts;
  ExpertPartition experts;
  DispatchLayout dispatch;
  CombineLayout combine;
  WaitTimes* waits = nullptr;  ///< where waits are booked; null: nowhere

  int host() const { return hosts.host_of(rank); }
  bool is_local(int other) const { return hosts.host_of(other) == host(); }
  int n_local() const { return hosts.n_members(host()); }

  /// Most rows that a rank receives / sends in a round.
  std::size_t max_rows_in() const {
    return static_cast<std::size_t>(config.max_tokens) * static_cast<std::size_t>(n_ranks);
  }
  std::size_t max_rows_out() const { return max_rows_to(n_ranks); }
  /// Most rows that a rank sends to `ranks` ranks together.
  std::size_t max_rows_to(int ranks) const {
    return static_cast<std::size_t>(config.max_tokens) * static_cast<std::size_t>(std::min(config.topk, ranks));
  }
};

/// Rounds in flight at once.
inline constexpr int n_round_sets = 2;

/// What dispatch was called with.
struct TokensToSend {
  std::span<const float> rows;
  std::span<const std::int32_t> expert_ids;
  std::span<const float> weights;
};

/// Rows that have arrived from one rank, wherever they lie.
struct ArrivedRows {
  const std::byte* routing = nullptr;   ///< a record for each row
  const std::byte* rows = nullptr;      ///< the dispatch layout's row stride apart
  const std::int32_t* index = nullptr;  ///< place of each row among `rows`; null: one after another
};

/// A round from the begin of its dispatch to the end of its combine.
struct RoundBuffers {
  explicit RoundBuffers(const ExchangeSetup& setup, int set_number);
  static std::size_t bytes(const ExchangeSetup& setup);

  const ExchangeSetup* setup;
  const int set;             ///< 0 or 1: which buffers of the algorithm the round uses
  std::uint64_t number = 0;  ///< 1 for the first round of the exchange; equal on all ranks
  SendPlan plan;

  // Set by the algorithm when the dispatch ends.
  std::vector<ArrivedRows> arrived;  ///< [ranks]
  std::vector<int> rows_from;        ///< [ranks]

  // Derived by index_rows().
  std::vector<int> first_row;      ///< [ranks + 1]
  Buffer<const std::byte*> row;    ///< [n_rows]
  Buffer<float> scale;             ///< [n_rows]
  std::vector<int> expert_offset;  ///< [local experts + 1] into the two lists
  Buffer<std::int32_t> expert_row;
  Buffer<float> expert_weight;

  // The way back.
  const float* sums = nullptr;              ///< [n_rows, hidden], the caller's
  std::vector<const std::byte*> sums_from;  ///< [ranks]: contribution of each rank, rows sums_stride apart
  std::vector<std::size_t> sums_stride;     ///< [ranks]

  /// f32 sums for this rank itself are taken from where the caller has them.
  void keep_own_sums();

  int n_rows() const { return first_row.back(); }
  /// For a message of DispatchLayout with `rows` rows: sets arrived and rows_from.
  void set_arrived(int source, const std::byte* message, int rows);
  /// Row pointers, scales and the expert lists from the messages.
  void index_rows();
  /// out = for each token the sum of its contributions in ascending rank order.
  void add_up(std::span<float> out) const;

 private:
  mutable std::vector<const std::byte*> contributions_;  ///< of one token
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
void write_sums(const RoundBuffers& round, int rank, std::byte* to, Stores stores);

}  // namespace supernode::collectives
