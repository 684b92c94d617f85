#pragma once
// Which one-sided windows this MPI gives. A site may have chosen a one-sided component that refuses some.

#include "collectives/algorithms.hpp"
#include "collectives/rows/host_map.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

/// Asks MPI for a small window of each kind that ranks at these places may need. Collective; all ranks get the same
/// answer: a kind is there when every rank has got its window.
WindowSupport probe_windows(const Communicator& comm, const HostMap& hosts);

/// @throws EnvironmentError naming the algorithm, the kind of window and MPI's one-sided component, when `support`
/// lacks a window that `entry` needs among `hosts` hosts.
void require_windows(const AlgorithmEntry& entry, int hosts, const WindowSupport& support);

}  // namespace supernode::collectives
