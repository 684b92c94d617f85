#include "collectives/internal/roll_call.hpp"

#include <vector>

#include "runtime/core/deadline.hpp"
#include "runtime/core/mpi_call.hpp"

namespace supernode::collectives {
namespace {

constexpr int roll_tag = 32767;  // the largest that every MPI has; no algorithm comes near

}  // namespace

std::string call_the_roll(const Communicator& comm, double seconds) {
  // The requests stay with MPI: some will never end.
  static char nothing = 0;
  std::vector<bool> here(static_cast<std::size_t>(comm.size()));
  here[static_cast<std::size_t>(comm.rank())] = true;
  int missing = comm.size() - 1;
  for (int rank = 0; rank < comm.size(); ++rank) {
    MPI_Request request = MPI_REQUEST_NULL;
    if (rank != comm.rank()) MPI_Isend(&nothing, 0, MPI_CHAR, rank, roll_tag, comm.get(), &request);
  }
  const Deadline deadline(seconds);
  SpinWait spin(true);
  while (missing > 0 && !deadline.expired()) {
    int found = 0;
    MPI_Status status;
    SUPERNODE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, roll_tag, comm.get(), &found, &status));
    if (found == 0) {
      spin.turn();
      continue;
    }
    SUPERNODE_MPI(MPI_Recv(&nothing, 0, MPI_CHAR, status.MPI_SOURCE, roll_tag, comm.get(), MPI_STATUS_IGNORE));
    here[static_cast<std::size_t>(status.MPI_SOURCE)] = true;
    --missing;
  }
  std::string text;
  for (int rank = 0; rank < comm.size(); ++rank)
    if (!here[static_cast<std::size_t>(rank)])
      text += (text.empty() ? "; silent: rank " : ", rank ") + std::to_string(rank);
  return text;
}

}  // namespace supernode::collectives
