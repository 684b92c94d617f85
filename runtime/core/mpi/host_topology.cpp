#include "runtime/core/mpi/host_topology.hpp"

#include <memory>

#include <hwloc.h>

#include "runtime/core/core_sharing.hpp"
#include "runtime/core/cpu_quota.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/session.hpp"

namespace supernode {
namespace {

struct TopologyDeleter {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, TopologyDeleter>;

struct BitmapDeleter {
  void operator()(hwloc_bitmap_s* bitmap) const { hwloc_bitmap_free(bitmap); }
};
using Bitmap = std::unique_ptr<hwloc_bitmap_s, BitmapDeleter>;

Topology load() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) throw EnvironmentError("hwloc cannot create a topology");
  Topology topology(raw);
  if (hwloc_topology_load(raw) != 0) throw EnvironmentError("hwloc cannot read this host's topology");
  return topology;
}

int count(const Topology& topology, hwloc_obj_type_t type) {
  return std::max(0, hwloc_get_nbobjs_by_type(topology.get(), type));
}

/// What counts as a core: some hosts show processing units only.
hwloc_obj_type_t core_type(const Topology& topology) {
  return count(topology, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
}

HostTopology describe(const Topology& topology) {
  HostTopology host;
  host.host = host_name();
  host.packages = count(topology, HWLOC_OBJ_PACKAGE);
  host.numa_nodes = count(topology, HWLOC_OBJ_NUMANODE);
  host.cores = count(topology, core_type(topology));
  host.processing_units = count(topology, HWLOC_OBJ_PU);
  host.memory_bytes = hwloc_get_root_obj(topology.get())->total_memory;

  const Bitmap allowed(hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topology.get())));
  Bitmap binding(hwloc_bitmap_alloc());
  if (hwloc_get_cpubind(topology.get(), binding.get(), HWLOC_CPUBIND_PROCESS) != 0 ||
      hwloc_bitmap_iszero(binding.get()))
    hwloc_bitmap_copy(binding.get(), allowed.get());
  host.bound = !hwloc_bitmap_isincluded(allowed.get(), binding.get());
  host.bound_by = host.bound ? "launcher" : "none";

  hwloc_obj_t core = nullptr;
  for (int i = 0; (core = hwloc_get_next_obj_by_type(topology.get(), core_type(topology), core)); ++i)
    if (hwloc_bitmap_intersects(core->cpuset, binding.get())) host.usable_cores.push_back(i);
  host.cpu_quota = cpu_quota();

  char text[256] = "";
  hwloc_bitmap_list_snprintf(text, sizeof text, binding.get());
  host.binding = text;
  for (hwloc_obj_t node = nullptr; (node = hwloc_get_next_obj_by_type(topology.get(), HWLOC_OBJ_NUMANODE, node));)
    if (hwloc_bitmap_isincluded(binding.get(), node->cpuset)) host.numa_node = static_cast<int>(node->logical_index);
  return host;
}

}  // namespace

bool share_cores(std::span<const std::vector<int>> usable_cores, std::optional<double> cpu_quota) {
  const auto ranks = static_cast<int>(usable_cores.size());
  return ranks_with_own_processor(usable_cores) < ranks || (cpu_quota && *cpu_quota < ranks);
}

bool oversubscribed(const Communicator& world, const HostTopology& host) {
  const Communicator host_ranks = world.split_by_host();
  const std::vector<std::string> texts = host_ranks.gather(Json(host.usable_cores).dump());
  std::vector<std::vector<int>> usable_cores;
  for (const std::string& text : texts) usable_cores.push_back(Json::parse(text).get<std::vector<int>>());
  // Only a host's first rank has the others' cores.
  return world.max(static_cast<long long>(host_ranks.rank() == 0 && share_cores(usable_cores, host.cpu_quota))) != 0;
}

HostTopology detect_host_topology() { return describe(load()); }

HostTopology bind_rank(int local_rank, int local_size, bool enable) {
  const Topology topology = load();
  HostTopology host = describe(topology);
  if (!enable || host.bound || local_size > host.cores || !hwloc_topology_is_thissystem(topology.get())) return host;

  const Bitmap share(hwloc_bitmap_alloc());
  const int first = host.cores * local_rank / local_size, last = host.cores * (local_rank + 1) / local_size;
  for (int core = first; core < last; ++core)
    hwloc_bitmap_or(share.get(), share.get(),
                    hwloc_get_obj_by_type(topology.get(), core_type(topology), static_cast<unsigned>(core))->cpuset);
  if (hwloc_set_cpubind(topology.get(), share.get(), HWLOC_CPUBIND_PROCESS) != 0) return host;
  host = describe(topology);
  if (host.bound) host.bound_by = "supernode";
  return host;
}

Json to_json(const HostTopology& t) {
  return {{"host", t.host},
          {"packages", t.packages},
          {"numa_nodes", t.numa_nodes},
          {"cores", t.cores},
          {"processing_units", t.processing_units},
          {"memory_bytes", t.memory_bytes},
          {"binding", t.binding},
          {"bound_by", t.bound_by},
          {"numa_node", t.numa_node},
          {"cpu_quota", t.cpu_quota ? Json(*t.cpu_quota) : Json()}};
}

}  // namespace supernode
