#pragma once
// Who kept this rank waiting. Every loop in which an algorithm waits for a peer goes through wait_for_peer(), so that
// the times end in ExchangeStatistics, in the benchmark's matrix, and under one deadline.

#include <string>
#include <utility>
#include <vector>

#include "collectives/internal/round.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/deadline.hpp"

namespace supernode::collectives {

/// For waits that do not tell whom they are for: MPI's own collectives.
inline constexpr int whole_group = -1;

/// Seconds that this rank has waited, by the peer that it waited for; totals since construction. A rank that waits for
/// its peers one after the other books the time that passes on the one it is looking at, so the sum over peers is the
/// time lost.
class WaitRecorder {
 public:
  explicit WaitRecorder(int ranks) : seconds_for_(static_cast<std::size_t>(ranks)) {}
  void add(int peer, double seconds) {
    (peer == whole_group ? seconds_for_group_ : seconds_for_[static_cast<std::size_t>(peer)]) += seconds;
  }
  const std::vector<double>& seconds_for() const { return seconds_for_; }  ///< [ranks]
  double seconds_for_group() const { return seconds_for_group_; }

 private:
  std::vector<double> seconds_for_;
  double seconds_for_group_ = 0;
};

/// Calls `ready()` until it is true, and books the wait on `peer` (or whole_group). A first success costs no look at
/// the clock. `describe()` is called on time-out only, and gives the text that follows "rank N: ".
/// @throws TimeoutError after the exchange's deadline.
template <class Ready, class Describe>
void wait_for_peer(const ExchangeSetup& setup, int peer, Ready&& ready, Describe&& describe) {
  if (ready()) return;
  const WallTime begin = wall_now();
  wait_until(std::forward<Ready>(ready), setup.config.deadline_s,
             [&] { return "rank " + std::to_string(setup.rank) + ": " + describe(); });
  if (setup.waits) setup.waits->add(peer, (wall_now() - begin).value);
}

}  // namespace supernode::collectives
