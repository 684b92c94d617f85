#pragma once
// How an algorithm waits.

#include <string>

#include "collectives/algorithms/wait_recorder.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {

/// Waits with the exchange's deadline. Between hosts nothing moves while nobody is inside MPI, neither messages nor
/// one-sided transfers from or to this rank: there every turn lets MPI work.
class Waiting {
 public:
  Waiting(const ExchangeSetup& setup, const Communicator& comm) : setup_(setup), comm_(comm) {}

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
inline std::string missing_message(const RoundBuffers& round, const char* what, int source) {
  return std::string("no ") + what + " message of round " + std::to_string(round.number) + " from rank " +
         std::to_string(source);
}

}  // namespace supernode::collectives
