#pragma once
// Where a result comes from: enough to run it again.

#include <string>
#include <vector>

#include "runtime/core/json.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/host_topology.hpp"

namespace supernode {

/// "0.1.0"
std::string version();

/// Version, compiler, build type and library versions; no communication, works without MPI_Init.
Json build_provenance();

/// build_provenance() plus what the run adds: command line, start time (UTC), hosts and ranks on each, binding of each
/// rank, the MPI library, the Open MPI components in force (pml, btl, osc).
/// Collective; complete on rank 0, empty elsewhere.
Json run_provenance(const Communicator& world, const HostTopology& host, const std::vector<std::string>& command_line);

}  // namespace supernode
