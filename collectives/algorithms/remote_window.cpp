#include "collectives/algorithms/remote_window.hpp"

#include <exception>
#include <string>

#include "collectives/algorithms/lines.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {

RemoteWindow::RemoteWindow(const ExchangeSetup& setup, const Communicator& comm, std::byte* memory, std::size_t bytes)
    : setup_(setup), line_(line_type()) {
  SUPERNODE_MPI(MPI_Win_create(memory, static_cast<MPI_Aint>(bytes), 1, MPI_INFO_NULL, comm.get(), window_.out()));
  SUPERNODE_MPI(MPI_Win_set_errhandler(window_.get(), MPI_ERRORS_RETURN));
  SUPERNODE_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_.get()));
  // The first transfer to a rank sets up a connection and may block in it: do that now, while all are here.
  std::byte first{};
  for (int rank = 0; rank < setup.n_ranks; ++rank) {
    if (setup.is_local(rank)) continue;
    OwnedRequest request;
    SUPERNODE_MPI(MPI_Rget(&first, 1, MPI_BYTE, rank, 0, 1, MPI_BYTE, window_.get(), request.out()));
  }
  comm.barrier();
}

RemoteWindow::~RemoteWindow() {
  if (std::uncaught_exceptions() == 0) MPI_Win_unlock_all(window_.get());
}

void RemoteWindow::get(int rank, std::size_t offset, std::byte* into, std::size_t bytes, OwnedRequest& request) const {
  SUPERNODE_MPI(MPI_Rget(into, lines_of(bytes), line_.get(), rank, static_cast<MPI_Aint>(offset), lines_of(bytes),
                         line_.get(), window_.get(), request.out()));
}

void RemoteWindow::put(int rank, std::size_t offset, const std::byte* from, std::size_t bytes) const {
  SUPERNODE_MPI(MPI_Put(from, lines_of(bytes), line_.get(), rank, static_cast<MPI_Aint>(offset), lines_of(bytes),
                        line_.get(), window_.get()));
}

void RemoteWindow::sync() const { SUPERNODE_MPI(MPI_Win_sync(window_.get())); }

void RemoteWindow::flush(int rank, const Round& round, std::string_view what, Watchdog& watchdog) const {
  watchdog.guard(
      setup_.config.deadline_s, [&] { SUPERNODE_MPI(MPI_Win_flush(rank, window_.get())); },
      [&] {
        return "rank " + std::to_string(setup_.rank) + ": the " + std::string(what) + " rows of round " +
               std::to_string(round.number) + " were not taken by rank " + std::to_string(rank);
      });
}

}  // namespace supernode::collectives
