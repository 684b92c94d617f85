#pragma once
// How unevenly experts are used, and what a placement makes of it. Loads are shares of all token-expert pairs.

#include <span>
#include <string>
#include <vector>

namespace supernode::emulation {

/// Shape of the load over the routed experts, the same in every MoE layer or one row a layer.
struct ExpertLoad {
  /// [layers][experts] relative loads; empty: all equal.
  std::vector<std::vector<double>> layers = {};
  /// The same of the loads that experts were placed for; empty: `layers`. Where there are fewer, the first follows the
  /// last.
  std::vector<std::vector<double>> forecast = {};
  /// Relative standard deviation of what a slot gets, over a long time, around what its placement was computed for.
  double drift = 0;
  /// Relative standard deviation of an expert's share from request to request; a batch of n requests has it / sqrt(n).
  /// Both 0: the published "perfect balance".
  double request_spread = 0;
};

/// Recorded counts (core/expert_counts.hpp); all-zero rows (dense layers) are left out.
/// @throws UsageError as parse_expert_counts() does, and where no row is left.
ExpertLoad parse_expert_load(const std::string& text, const std::string& source);

/// weight(rank i) = 1 / (i + 1)^alpha.
ExpertLoad zipf_load(int experts, double alpha);

/// What the placement of layer `layer` of load.layers was computed for.
std::span<const double> forecast_of(const ExpertLoad& load, std::size_t layer);

/// Copies of each expert when `slots` >= experts are given out one by one, each to the largest load per copy.
std::vector<int> replicate(std::span<const double> loads, int slots);

/// The expert that each slot holds, [slots], those of die 0 first: copies by replicate(), dealt heaviest first to the
/// least loaded die with room. @param slots total, a multiple of `dies` and at least as many as experts
std::vector<int> place_experts(std::span<const double> loads, int slots, int dies);

/// Load of the busiest die over the mean, with experts placed by place_experts().
double placed_skew(std::span<const double> loads, int slots, int dies);

/// The same where copies and dies were chosen for other loads than those that came. @param forecast [experts], as
/// `loads`
double placed_skew(std::span<const double> forecast, std::span<const double> loads, int slots, int dies);

/// Expected largest of n standard normal values (Blom's approximation); 0 for n = 1.
double expected_maximum(int n);

/// Busiest die over mean for the whole load: mean over layers of the placed skew, and beside it the drift and the
/// chance of small numbers: sd * expected_maximum(dies), sd^2 = (drift^2 + request_spread^2 / requests + 1 /
/// rows_per_slot) / slots per die; both parts join in quadrature. >= 1.
/// @param rows_per_slot expected token rows of a slot in one exchange, > 0; @param requests they come from, > 0
double expert_skew(const ExpertLoad& load, int slots, int dies, double rows_per_slot, double requests);

}  // namespace supernode::emulation
