#include "collectives/algorithms/find_hosts.hpp"

#include <algorithm>
#include <vector>

#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {

HostMap find_hosts(const Communicator& comm, int parts) {
  const Communicator host = comm.split_by_host();
  int first = comm.rank();
  SUPERNODE_MPI(MPI_Bcast(&first, 1, MPI_INT, 0, host.get()));
  const int part = HostMap::blocks(host.size(), std::min(parts, host.size())).host_of(host.rank());
  // A rank's label: the rank that is first on its host, and its part of that host.
  const int label[2] = {first, part};
  std::vector<int> labels(2 * static_cast<std::size_t>(comm.size())), host_of(static_cast<std::size_t>(comm.size()));
  SUPERNODE_MPI(MPI_Allgather(label, 2, MPI_INT, labels.data(), 2, MPI_INT, comm.get()));
  for (std::size_t rank = 0; rank < host_of.size(); ++rank) {
    std::size_t same = 0;  // the lowest rank with this label stands for it
    while (labels[2 * same] != labels[2 * rank] || labels[2 * same + 1] != labels[2 * rank + 1]) ++same;
    host_of[rank] = static_cast<int>(same);
  }
  return HostMap(host_of);
}

}  // namespace supernode::collectives
