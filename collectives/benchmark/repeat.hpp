#pragma once
// Repeats what a benchmark compares, in turns, so that noise meets all alike.

#include <functional>
#include <span>
#include <vector>

#include "collectives/algorithms/roll_call.hpp"
#include "collectives/benchmark/repetition.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

/// One of the things that are compared. Its functions are collective.
struct Contender {
  /// One round; `iteration` counts the timed ones from 0, -1 is a round that does not count. Returns the seconds that
  /// this rank measured.
  std::function<double(int iteration)> round;
  /// After each turn, outside any timing; may be empty.
  std::function<void()> settle = {};

  std::vector<double> us = {};       ///< [timed rounds], each the largest over ranks; equal on all ranks
  std::vector<double> turn_us = {};  ///< [turns], the median of each
  double own_us = 0;                 ///< this rank's mean over the timed rounds
  double round_s = 0;                ///< of the last round that did not count, largest over ranks
};

/// A rank waits for all, starts its clock, does `step`, stops, and waits for all again: where ranks share cores, what
/// the first ones do next must not take the core from those that are still timed. Returns its seconds.
/// @throws TimeoutError naming ranks that do not come within `deadline_s`.
template <class Step>
double timed_together(const Communicator& comm, double deadline_s, Step&& step) {
  meet(comm, deadline_s);
  const WallTime start = wall_now();
  step();
  const double seconds = (wall_now() - start).value;
  meet(comm, deadline_s);
  return seconds;
}

/// The rounds before the timed ones: repetition.warmup, but not many more than fit in a tenth of the time limit, and at
/// least one. @throws TimeoutError naming ranks that do not come within `deadline_s`, as repeat().
void warm_up(const Communicator& comm, const Repetition& repetition, double deadline_s, Contender& contender);

/// Times all contenders in turns of as many rounds each, until every one has enough or the time is over. A turn begins
/// with a round that does not count, since the others have swept the caches; who begins changes. All contenders end
/// with as many turns, so turn_us can be compared in pairs, and all ranks stop at the same round.
void repeat(const Communicator& comm, const Repetition& repetition, double deadline_s, std::span<Contender> contenders);

}  // namespace supernode::collectives
