#pragma once
// How evenly the experts of an instance were used over a run, and what rebalancing them did. Pure.

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/json.hpp"
#include "runtime/serving/load/run_series.hpp"

namespace supernode::serving {

/// What the dies of an instance counted over the steps between two looks.
struct BalanceSample {
  double at_s = 0;             ///< when the last of the steps ended, on the run's clock
  std::uint64_t steps = 0;     ///< that were counted
  double imbalance = 0;        ///< rows of the busiest die over the mean of all; mean over layers. 0 without rows
  double worst = 0;            ///< the same of the layer where it is largest
  double tokens = 0;           ///< that went through the model, of all dies
  double step_s = 0;           ///< that the steps took on the run's clock, mean over dies
  double bytes_away = 0;       ///< of rows to other dies and back
  std::uint64_t switched = 0;  ///< layers whose experts had changed places by the end, since the run began

  friend bool operator==(const BalanceSample&, const BalanceSample&) = default;
};

/// Of one instance. Its first die counts; the wall time is of all dies.
struct BalanceFigures {
  std::uint64_t rebalancings = 0;   ///< that were decided on
  std::uint64_t experts_moved = 0;  ///< whose weights went to another die
  std::uint64_t bytes_moved = 0;    ///< of weights; of the emulated machine's experts where nothing computes
  double wall_s = 0;                ///< that dies were at it: counting, deciding, packing, waiting, taking in
  double modelled_s = 0;            ///< that steps were longer for it on the modelled clock
  std::vector<BalanceSample> samples;

  BalanceFigures& operator+=(const BalanceFigures& other);
  friend bool operator==(const BalanceFigures&, const BalanceFigures&) = default;
};

struct InstanceBalance {
  std::string role;  ///< "prefill" or "decode"
  int instance = 0;
  BalanceFigures figures;
};

/// The object `rebalancing` of results, by role: sums over its instances, and the figures `before` any expert had changed
/// its place and `after` the last one had (where they went on changing, of the last sample). Null where there were no such
/// steps.
Json rebalancing_json(const std::vector<InstanceBalance>& instances);
/// The lines of the text, from rebalancing_json().
std::string rebalancing_text(const Json& rebalancing);
/// "<role>/expert_balance/<instance>": a row a sample.
std::vector<SeriesTable> balance_tables(const std::vector<InstanceBalance>& instances);

}  // namespace supernode::serving
