#pragma once
// Bells of the ranks of a host. MPI tells a rank of a message when the rank looks, so a rank that waits wakes up again and
// again to find nothing; with hundreds of ranks on a few cores that is most of a run. With bells a waiting rank sleeps
// until somebody has sent it a message: Mailbox rings, and a wait of Idle::bell (deadline.hpp) hears it.
//
// A bell is a counter in memory that the host's ranks share, and a futex on it. A ring that nobody hears costs a few
// nanoseconds; where there are no bells, waits are those of Idle::sleep. Ranks of other hosts cannot ring: where there are
// such, a wait of Idle::bell looks for their messages as often as one of Idle::sleep does.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode {

namespace doorbell {

/// Hangs a bell for each rank of `host`. Where its ranks can have no shared memory there are none.
/// Collective over the host's ranks; before any PeerBells.
void hang(const Communicator& host);
/// Collective over the same ranks, before MPI_Finalize.
void take_down();

bool hung();
/// Whether every rank of the world has a bell here: whether it is all on this host.
bool rung_by_all();
/// How often this rank's bell has rung, modulo 2^32; 0 without bells.
std::uint32_t rings();
/// Sleeps until rings() is no longer `seen`, or for about `most`. @pre hung()
void wait(std::uint32_t seen, std::chrono::microseconds most);

}  // namespace doorbell

/// The bells of a communicator's ranks, as far as they are on this host.
class PeerBells {
 public:
  explicit PeerBells(const Communicator& comm);
  /// Wakes up that rank if it waits. Call it when the message is sent.
  void ring(int rank) const;

 private:
  std::vector<std::atomic<std::uint32_t>*> bells_;  ///< [ranks]; empty when no bells hang
};

}  // namespace supernode
