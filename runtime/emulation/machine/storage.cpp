#include "runtime/emulation/machine/storage.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {

Terms pool_read_time(const Machine& machine, PoolNetwork network, double bytes, double piece) {
  Terms terms;
  if (bytes <= 0) return terms;
  const double pieces = bytes / piece;
  const double gbps = network == PoolNetwork::fabric
                          ? link_gbps(machine, Access::read, Memory::host, 2)
                          : machine.host_path.vpc_gbps * machine.host_path.vpc_efficiency / machine.dies_per_node();
  terms.add("requests", {pieces * machine.host_path.pool_request_us * 1e-6});
  terms.add("transfer", {bytes / (gbps * 1e9)});
  return terms;
}

ModelTime ssd_read_time(const Machine& machine, double bytes) { return {bytes / (machine.host_path.ssd_gbps * 1e9)}; }

ModelTime object_store_time(const Machine& machine, double bytes, int readers) {
  return {readers * bytes / (machine.host_path.object_store_gbps * 1e9 * machine.host_path.object_store_efficiency)};
}

ModelTime warm_load_time(const Machine& machine, double bytes) {
  return {bytes / (machine.host_path.cpu_link_gbps * 1e9 * machine.fabric.read_efficiency)};
}

ModelStoreCosts model_store_costs(const Machine& machine, ModelStore store, double bytes, int instances, int models) {
  ModelStoreCosts costs;
  costs.warm_start = warm_load_time(machine, bytes);
  switch (store) {
    case ModelStore::object_store:
      costs.cold_start = object_store_time(machine, bytes, instances);
      break;
    case ModelStore::local_dram:
      // Each host fills its own copy, so all of them read the bucket at once.
      costs.cold_start = object_store_time(machine, bytes, instances);
      costs.dram_overhead = instances;
      costs.hit_rate = 1.0 / models;
      break;
    case ModelStore::pool: {
      costs.cold_start = object_store_time(machine, bytes, 1);
      costs.dram_overhead = 1;
      const double fitting = std::floor(machine.nodes * machine.host_path.dram_gb * 1e9 / bytes);
      costs.hit_rate = std::min(1.0, fitting / models);
      break;
    }
  }
  costs.average_switch =
      costs.hit_rate * costs.warm_start + (1 - costs.hit_rate) * object_store_time(machine, bytes, 1);
  return costs;
}

}  // namespace supernode::emulation
