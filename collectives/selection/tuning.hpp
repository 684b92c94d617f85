#pragma once
// From measured times to selection rules. Pure.

#include <string>
#include <utility>
#include <vector>

#include "collectives/selection/rules.hpp"

namespace supernode::collectives {

/// What each algorithm took for one size.
struct MeasuredSize {
  double bytes = 0;                                   ///< as in ExchangeTraits
  std::vector<std::pair<std::string, double>> times;  ///< algorithm and time, of any unit; at least one
};

/// The algorithm of each size: the fastest, but an equal of it (within `tie`, relative) when it was the one of the size
/// before, so that noise makes no rules. @param sizes ascending
std::vector<std::string> winners(const std::vector<MeasuredSize>& sizes, double tie);

/// Rules for one shape of ranks, a line for each stretch of sizes with the same algorithm. They meet halfway (in the
/// logarithm) between the measured sizes, and reach down to 0 and up without end.
/// @param sizes ascending in bytes, at least one @param chosen for each of them
/// @param skew of the traffic that was measured: rules for even traffic (below 1.1) hold for any
std::vector<SelectionRule> tuned_rules(const std::vector<MeasuredSize>& sizes, const std::vector<std::string>& chosen,
                                       int hosts, int ranks, double skew);

/// `tuned` before `old`, without the old rules for the same hosts, ranks and skew; rules for skewed traffic stand
/// before those of their shape that hold for any.
std::vector<SelectionRule> merged_rules(const std::vector<SelectionRule>& tuned, const std::vector<SelectionRule>& old);

}  // namespace supernode::collectives
