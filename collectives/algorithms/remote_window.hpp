#pragma once
// One-sided transfers between hosts. What stands between us and MPI's rules:
//   - Over TCP, Open MPI's only one-sided component works with messages: a transfer moves while both ranks are inside
//     MPI. So ranks that wait keep calling it (ProgressingWait), and nobody waits for a transfer that needs a rank to
//     get past a wait of its own.
//   - Remote completion of a put is known by MPI_Win_flush alone, which blocks without a deadline. A watchdog ends the
//     process when it does not return.

#include <cstddef>
#include <string_view>

#include "collectives/algorithms/round.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/watchdog.hpp"

namespace supernode::collectives {

class RemoteWindow {
 public:
  /// Collective over `comm`. Every rank offers its own `memory` of `bytes`, which must outlive the window.
  RemoteWindow(const ExchangeSetup& setup, const Communicator& comm, std::byte* memory, std::size_t bytes);
  ~RemoteWindow();  ///< collective
  RemoteWindow(const RemoteWindow&) = delete;
  RemoteWindow& operator=(const RemoteWindow&) = delete;

  /// Starts to read `bytes`, whole lines, at `offset` of `rank`'s memory; done when the request is.
  void get(int rank, std::size_t offset, std::byte* into, std::size_t bytes, OwnedRequest& request) const;
  /// Starts to write; `from` must stay until flush(rank) has returned.
  void put(int rank, std::size_t offset, const std::byte* from, std::size_t bytes) const;
  /// Makes what others have put visible here, after they said that it is complete.
  void sync() const;
  /// Waits until everything put to `rank` lies there. Ends the process with a message of `what` and `rank` when the
  /// rank does not answer in time.
  void flush(int rank, const Round& round, std::string_view what, Watchdog& watchdog) const;

 private:
  const ExchangeSetup& setup_;
  OwnedDatatype line_;
  OwnedWindow window_;
};

}  // namespace supernode::collectives
