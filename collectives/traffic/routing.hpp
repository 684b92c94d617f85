#pragma once
// Traffic patterns: which experts tokens choose, drawn or recorded. Deterministic.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collectives/traffic/recorded_routing.hpp"

namespace supernode::collectives {

/// How popular the experts are. A token draws topk distinct experts, one after the other, each with a probability
/// proportional to its popularity among those not yet drawn.
///   uniform  all alike
///   zipf     expert e: 1 / (e + 1)^zipf_alpha, so low ranks get most
///   k_hot    the first hot_experts share hot_fraction evenly, the others the rest
///   file     as recorded: drawn like the counts, or the recorded tokens one after the other, again from the first when
///            they are used up
struct RoutingConfig {
  std::string pattern = "uniform";
  double zipf_alpha = 1;
  int hot_experts = 4;
  double hot_fraction = 0.5;
  std::uint64_t seed = 1;
  std::shared_ptr<const RecordedRouting> recorded = {};  ///< for "file"
};

/// The patterns that need nothing recorded.
std::vector<std::string> routing_patterns();

/// Popularity of each expert, summing to 1. @throws UsageError for an unknown pattern or a value out of range.
std::vector<double> expert_popularity(const RoutingConfig& config, int num_experts);

/// Rows of the busiest of `ranks` ranks over the mean, expected when tokens draw topk experts and travel once to each
/// rank that holds any of them. Pure; ignores that a token's experts are distinct.
double routing_skew(std::span<const double> popularity, int topk, int ranks);

/// The experts [n_tokens, topk] of the tokens that `rank` dispatches, as drawn or recorded, and their weights [n_tokens,
/// topk], which are always drawn: positive, and 1 together for each token. Drawn experts of a token are distinct. A
/// function of (config, rank, token) only. Drawing is O(n_tokens * experts).
/// @throws UsageError as expert_popularity() does, for a topk above the experts, and for one that was not recorded.
void route_tokens(const RoutingConfig& config, int num_experts, int rank, int topk, std::span<std::int32_t> expert_ids,
                  std::span<float> weights);

}  // namespace supernode::collectives
