#pragma once
// Every loop in which an algorithm waits for a peer goes through wait_for_peer(), so that the time ends in WaitTimes
// and in the benchmark's matrix, and all have one deadline.

#include <string>
#include <utility>

#include "collectives/algorithms/round.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/deadline.hpp"

namespace supernode::collectives {

/// For waits that do not tell whom they are for: MPI's own collectives.
inline constexpr int whole_group = -1;

/// Calls `ready()` until it is true, and books the wait on `peer` (or whole_group). A first success costs no look at
/// the clock. `describe()` is called on time-out only, and gives the text that follows "rank N: ".
/// @throws TimeoutError after the exchange's deadline.
template <class Ready, class Describe>
void wait_for_peer(const ExchangeSetup& setup, int peer, Ready&& ready, Describe&& describe) {
  if (ready()) return;
  const WallTime begin = wall_now();
  wait_until(std::forward<Ready>(ready), setup.config.deadline_s,
             [&] { return "rank " + std::to_string(setup.rank) + ": " + describe(); });
  if (!setup.waits) return;
  double& booked = peer == whole_group ? setup.waits->for_group_s : setup.waits->for_peer_s[peer];
  booked += (wall_now() - begin).value;
}

}  // namespace supernode::collectives
