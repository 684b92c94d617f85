#pragma once
// The host this rank runs on, as hwloc sees it, and the binding of the rank to its cores.

#include <cstdint>
#include <string>

#include "runtime/core/json.hpp"

namespace supernode {

struct HostTopology {
  std::string host;
  int packages = 0, numa_nodes = 0, cores = 0, processing_units = 0;
  std::uint64_t memory_bytes = 0;
  std::string binding;   ///< cpuset of this process as a list ("0", "0-3,8")
  bool bound = false;    ///< the process may not use the whole host
  std::string bound_by;  ///< "launcher", "supernode" or "none"
  int numa_node = -1;    ///< the one NUMA node that holds the binding; -1 when it spans several
};

/// Looks at the host; binds nothing. HWLOC_SYNTHETIC and HWLOC_XMLFILE replace the real host, for tests.
/// @throws EnvironmentError when hwloc fails.
HostTopology detect_host_topology();

/// Keeps the launcher's binding when there is one. Else gives this rank its share of the host's cores, in order, when
/// `enable` is set and the host has a core for each of its `local_size` ranks; with fewer cores nothing is bound.
/// Local, no communication. @returns the topology after binding.
HostTopology bind_rank(int local_rank, int local_size, bool enable);

Json to_json(const HostTopology& topology);

}  // namespace supernode
