#pragma once
// How often a benchmark repeats what it times: a fixed number of rounds, or until the interval of the median is narrow.
// mpi/repeat.hpp runs the rounds.

#include <cstddef>
#include <span>

#include "runtime/core/statistics.hpp"

namespace supernode {

/// Either a fixed number of rounds, or as many as the confidence interval wants.
struct Repetition {
  int warmup = 10;  ///< rounds before the timed ones; fewer when they take long
  int least = 20;   ///< timed rounds in any case
  /// Rounds go on until the 95 % interval of the median is this part of the median; 0: `least` rounds and no more.
  double ci_width = 0.05;
  int most = 100000;        ///< no more rounds than this,
  double time_limit_s = 5;  ///< and no longer than this, for all that is compared together
  int turn = 0;             ///< rounds that a contender makes in a row; 0: rounds_in_turn()
};

/// Width of the 95 % confidence interval of the median over the median: 0.05 means 2.5 % to either side. Infinite below
/// 6 values, which bound no median with 95 % confidence.
double relative_ci_width(std::span<const double> sample);

/// Whether a sample needs no more rounds, whatever the time.
bool enough_rounds(std::span<const double> sample, const Repetition& repetition);

/// Rounds that each contender makes in a row before the next one's turn, when a round takes `round_s` on average over
/// the contenders: long enough for caches to be its own, short enough that what disturbs the host disturbs all alike.
int rounds_in_turn(double round_s);

/// How many times as long `times` are as `others`, both measured in pairs, one after the other: the summary of the
/// quotients. What slows both down, as another job on the host does for a while, does not move it.
/// @param times, others [pairs] of one unit
Summary paired_ratio(std::span<const double> times, std::span<const double> others);

}  // namespace supernode
