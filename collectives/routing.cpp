#include "collectives/routing.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"

namespace supernode::collectives {

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
  } else if (config.pattern != "uniform") {
    throw UsageError("routing '" + config.pattern + "' unknown; known: uniform, zipf, k_hot");
  }
  const double sum = std::accumulate(popularity.begin(), popularity.end(), 0.0);
  for (double& p : popularity) p /= sum;
  return popularity;
}

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
    float sum = 0;
    for (std::size_t i = 0; i < k; ++i) {
      expert_ids[token * k + i] = arrival[i].second;
      sum += weights[token * k + i] = static_cast<float>(0.1 + random.uniform());
    }
    for (std::size_t i = 0; i < k; ++i) weights[token * k + i] /= sum;
  }
}

}  // namespace supernode::collectives
