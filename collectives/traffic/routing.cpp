#include "collectives/traffic/routing.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "collectives/expert_partition.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"

namespace supernode::collectives {

namespace {

const RecordedRouting& recorded(const RoutingConfig& config, int num_experts) {
  expect(config.recorded != nullptr, "routing 'file' without recorded routing");
  const RecordedRouting& routing = *config.recorded;
  if (routing.num_experts != num_experts)
    throw UsageError(routing.source + ": recorded with " + std::to_string(routing.num_experts) + " experts, not " +
                     std::to_string(num_experts));
  return routing;
}

/// Positive weights that sum to 1, for the experts of one token.
void draw_weights(Random& random, std::span<float> weights) {
  float sum = 0;
  for (float& weight : weights) sum += weight = static_cast<float>(0.1 + random.uniform());
  for (float& weight : weights) weight /= sum;
}

/// Distinct experts for each token, and weights. A function of (popularity, seed, rank, token) only.
/// O(n_tokens * experts).
void draw_routing(std::span<const double> popularity, std::uint64_t seed, int rank, int topk,
                  std::span<std::int32_t> expert_ids, std::span<float> weights) {
  const std::size_t n_experts = popularity.size(), k = static_cast<std::size_t>(topk);
  if (k > n_experts)
    throw UsageError("topk " + std::to_string(topk) + " exceeds the " + std::to_string(n_experts) + " experts");
  std::vector<std::pair<double, std::int32_t>> arrival(n_experts);
  for (std::size_t token = 0; token * k < expert_ids.size(); ++token) {
    Random random(seed, mix64(static_cast<std::uint64_t>(rank)) + token);
    // Each expert "arrives" after an exponential time of rate popularity; the order of arrivals is a draw without
    // replacement. An impossible expert arrives last, but does arrive when the others do not fill topk.
    for (std::size_t e = 0; e < n_experts; ++e)
      arrival[e] = {-std::log1p(-random.uniform()) / std::max(popularity[e], 1e-30), static_cast<std::int32_t>(e)};
    std::partial_sort(arrival.begin(), arrival.begin() + static_cast<std::ptrdiff_t>(k), arrival.end());
    for (std::size_t i = 0; i < k; ++i) expert_ids[token * k + i] = arrival[i].second;
    draw_weights(random, weights.subspan(token * k, k));
  }
}

}  // namespace

std::vector<std::string> routing_patterns() { return {"uniform", "zipf", "k_hot"}; }

std::vector<double> expert_popularity(const RoutingConfig& config, int num_experts) {
  std::vector<double> popularity(static_cast<std::size_t>(num_experts), 1.0);
  if (config.pattern == "zipf") {
    if (!(config.zipf_alpha >= 0)) throw UsageError("zipf_alpha must be >= 0");
    for (int e = 0; e < num_experts; ++e) popularity[e] = std::pow(e + 1.0, -config.zipf_alpha);
  } else if (config.pattern == "k_hot") {
    const int hot = config.hot_experts;
    if (hot < 1 || hot > num_experts)
      throw UsageError("hot_experts " + std::to_string(hot) + " must be in [1, " + std::to_string(num_experts) + "]");
    if (!(config.hot_fraction >= 0 && config.hot_fraction <= 1)) throw UsageError("hot_fraction must be in [0, 1]");
    for (int e = 0; e < num_experts; ++e)
      popularity[e] = e < hot ? config.hot_fraction / hot : (1 - config.hot_fraction) / (num_experts - hot);
  } else if (config.pattern == "file") {
    popularity = recorded(config, num_experts).counts;
  } else if (config.pattern != "uniform") {
    throw UsageError("routing '" + config.pattern + "' unknown; known: uniform, zipf, k_hot, file");
  }
  const double sum = std::accumulate(popularity.begin(), popularity.end(), 0.0);
  for (double& p : popularity) p /= sum;
  return popularity;
}

double routing_skew(std::span<const double> popularity, int topk, int ranks) {
  const ExpertPartition experts(static_cast<int>(popularity.size()), ranks);
  double busiest = 0, sum = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    double share = 0;
    for (int i = 0; i < experts.count(rank); ++i) share += popularity[experts.first(rank) + i];
    const double rows = 1 - std::pow(1 - std::min(share, 1.0), topk);
    busiest = std::max(busiest, rows);
    sum += rows;
  }
  return sum > 0 ? busiest * ranks / sum : 1;
}

void route_tokens(const RoutingConfig& config, int num_experts, int rank, int topk, std::span<std::int32_t> expert_ids,
                  std::span<float> weights) {
  if (config.pattern != "file" || recorded(config, num_experts).topk == 0)
    return draw_routing(expert_popularity(config, num_experts), config.seed, rank, topk, expert_ids, weights);
  const RecordedRouting& routing = *config.recorded;
  if (topk != routing.topk)
    throw UsageError(routing.source + ": recorded with topk " + std::to_string(routing.topk) + ", not " +
                     std::to_string(topk));
  const std::size_t k = static_cast<std::size_t>(topk), n_recorded = routing.expert_ids.size() / k;
  const std::size_t n_tokens = expert_ids.size() / k, first = static_cast<std::size_t>(rank) * n_tokens;
  for (std::size_t token = 0; token < n_tokens; ++token) {
    std::copy_n(routing.expert_ids.begin() + static_cast<std::ptrdiff_t>((first + token) % n_recorded * k), k,
                expert_ids.begin() + static_cast<std::ptrdiff_t>(token * k));
    Random random(config.seed, mix64(static_cast<std::uint64_t>(rank)) + token);
    draw_weights(random, weights.subspan(token * k, k));
  }
}

}  // namespace supernode::collectives
