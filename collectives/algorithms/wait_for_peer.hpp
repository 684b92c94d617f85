#pragma once
// How an algorithm waits. Every loop in which it waits for a peer goes through wait_for_peer(), so that the time ends
// in WaitTimes and in the benchmark's matrix, and all have one deadline.

#include <string>
#include <string_view>
#include <utility>

#include "collectives/algorithms/round.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

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

/// Waits with the exchange's deadline. Between hosts nothing moves while nobody is inside MPI, neither messages nor
/// one-sided transfers from or to this rank: there every turn lets MPI work.
class ProgressingWait {
 public:
  ProgressingWait(const ExchangeSetup& setup, const Communicator& comm) : setup_(setup), comm_(comm) {}

  /// Until ready(). The wait is booked on `peer`, or whole_group; describe() says what did not come.
  /// @throws TimeoutError "rank <this>: <describe()> within ... s".
  template <class Ready, class Describe>
  void until(int peer, Ready&& ready, Describe&& describe) const {
    wait_for_peer(
        setup_, peer,
        [&] {
          if (ready()) return true;
          if (setup_.hosts.hosts() > 1) progress();
          return false;
        },
        describe);
  }

  void progress() const {
    int found = 0;
    SUPERNODE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_.get(), &found, MPI_STATUS_IGNORE));
  }

 private:
  const ExchangeSetup& setup_;
  const Communicator& comm_;
};

/// "no dispatch message of round 3 from rank 2"
inline std::string missing_message(const Round& round, std::string_view what, int source) {
  return "no " + std::string(what) + " message of round " + std::to_string(round.number) + " from rank " +
         std::to_string(source);
}

}  // namespace supernode::collectives
