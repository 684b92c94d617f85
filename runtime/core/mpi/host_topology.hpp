#pragma once
// The host this rank runs on, as hwloc sees it, and the binding of the rank to its cores.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/json.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode {

struct HostTopology {
  std::string host;
  int packages = 0, numa_nodes = 0, processing_units = 0;
  int cores = 0;  ///< processing units, where hwloc knows no cores
  std::uint64_t memory_bytes = 0;
  std::string binding;              ///< cpuset of this process as a list ("0", "0-3,8")
  bool bound = false;               ///< the process may not use the whole host
  std::string bound_by;             ///< "launcher", "supernode" or "none"
  int numa_node = -1;               ///< the one NUMA node that holds the binding; -1 when it spans several
  std::vector<int> usable_cores;    ///< numbers of the cores that the binding touches
  std::optional<double> cpu_quota;  ///< processors that the control group grants; nothing: no limit
};

/// Whether ranks of one host cannot have a core each, by their bindings together, or are granted less than a processor
/// each: times of such a run are no speeds. Pure.
bool share_cores(std::span<const std::vector<int>> usable_cores, std::optional<double> cpu_quota);
/// Whether that is so on any host of `world`; the same answer on all ranks. Collective.
bool oversubscribed(const Communicator& world, const HostTopology& host);

/// Looks at the host; binds nothing. HWLOC_SYNTHETIC and HWLOC_XMLFILE replace the real host, for tests.
/// @throws EnvironmentError when hwloc fails.
HostTopology detect_host_topology();

/// Keeps the launcher's binding when there is one. Else gives this rank its share of the host's cores, in order, when
/// `enable` is set and the host has a core for each of its `local_size` ranks; with fewer cores nothing is bound.
/// Local, no communication. @returns the topology after binding.
HostTopology bind_rank(int local_rank, int local_size, bool enable);

Json to_json(const HostTopology& topology);

}  // namespace supernode
