#pragma once
// Repeats what a benchmark compares, in turns, so that noise meets all contenders alike.
//
//   std::vector<Contender> contenders = {{.round = [&](int) { return timed_together(comm, deadline_s, [&] { a(); });
//   }},
//                                        {.round = [&](int) { return timed_together(comm, deadline_s, [&] { b(); });
//                                        }}};
//   for (Contender& contender : contenders) warm_up(comm, repetition, deadline_s, contender);
//   repeat(comm, repetition, deadline_s, contenders);
//   paired_ratio(contenders[0].turn_us, contenders[1].turn_us);

#include <functional>
#include <span>
#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/deadline_collectives.hpp"
#include "runtime/core/repetition.hpp"

namespace supernode {

/// One of the things that are compared. Its functions are collective.
struct Contender {
  /// One round; `iteration` counts the timed ones from 0, -1 is a round that does not count. Returns the seconds that
  /// this rank measured.
  std::function<double(int iteration)> round;
  /// Called after each turn, outside any timing; may be empty.
  std::function<void()> after_turn = {};

  std::vector<double> us = {};       ///< [timed rounds], each the largest over ranks; equal on all ranks
  std::vector<double> turn_us = {};  ///< [turns], the median of each
  std::vector<double> own_us = {};   ///< [timed rounds], this rank's
  double round_s = 0;                ///< of the last round that did not count, largest over ranks
};

/// A rank waits for all, starts its clock, does `step`, stops, and waits for all again: where ranks share cores, what
/// the first ones do next must not take the core from those that are still timed. Returns its seconds. Collective.
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
/// least one. Collective. @throws TimeoutError naming ranks that do not come within `deadline_s`, as repeat().
void warm_up(const Communicator& comm, const Repetition& repetition, double deadline_s, Contender& contender);

/// Times all contenders in turns of as many rounds each, until every one has enough or the time is over. A turn begins
/// with a round that does not count, since the others have swept the caches; who begins changes. All contenders end
/// with as many turns, so turn_us can be compared in pairs, and all ranks stop at the same round. Collective; a turn
/// ends with one reduction over the ranks.
void repeat(const Communicator& comm, const Repetition& repetition, double deadline_s, std::span<Contender> contenders);

}  // namespace supernode
