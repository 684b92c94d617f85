#pragma once
// Who shares a host with whom.

#include "collectives/rows/host_map.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

/// The ranks of `comm` by host; each host's ranks count as `parts` hosts, in blocks (as many as there are ranks, where
/// those are fewer). Collective.
HostMap find_hosts(const Communicator& comm, int parts);

}  // namespace supernode::collectives
