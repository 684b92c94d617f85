#pragma once
// What every part of an exchange knows.

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include "collectives/expert_partition.hpp"
#include "collectives/rows/host_map.hpp"
#include "collectives/rows/layout.hpp"
#include "collectives/token_exchange.hpp"

namespace supernode::collectives {

/// Rounds in flight at once.
inline constexpr int n_round_sets = 2;

/// Configuration, places and message forms of an exchange; equal on all ranks but for the rank.
struct ExchangeSetup {
  ExchangeSetup(const ExchangeConfig& exchange_config, int this_rank, HostMap host_map)
      : config(exchange_config),
        rank(this_rank),
        n_ranks(host_map.ranks()),
        hosts(std::move(host_map)),
        experts(config.num_experts, n_ranks),
        dispatch(config.dispatch_payload, config.hidden, config.topk, config.least_dispatch_row_bytes),
        combine(config.combine_payload, config.hidden) {}

  ExchangeConfig config;
  int rank, n_ranks;
  HostMap hosts;
  ExpertPartition experts;
  DispatchLayout dispatch;
  CombineLayout combine;
  std::string_view algorithm;  ///< the one in use, for messages
  WaitTimes* waits = nullptr;  ///< where waits are booked; null: nowhere

  int host() const { return hosts.host_of(rank); }
  bool is_local(int other) const { return hosts.host_of(other) == host(); }
  int n_local() const { return hosts.n_members(host()); }
  int n_remote() const { return n_ranks - n_local(); }

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

}  // namespace supernode::collectives
