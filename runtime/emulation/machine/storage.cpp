#include "runtime/emulation/machine/storage.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {

ModelTime pool_read_time(const Machine& machine, PoolNetwork network, double bytes, double piece) {
  if (bytes <= 0) return {};
  const double pieces = bytes / piece;
  const double gbps = network == PoolNetwork::fabric
                          ? link_gbps(machine, Access::read, Memory::host, 2)
                          : machine.slow.vpc_gbps * machine.slow.vpc_efficiency / machine.dies_per_node();
  return {pieces * machine.slow.pool_request_us * 1e-6 + bytes / (gbps * 1e9)};
}

ModelTime ssd_read_time(const Machine& machine, double bytes) { return {bytes / (machine.slow.ssd_gbps * 1e9)}; }

ModelTime object_store_time(const Machine& machine, double bytes, int readers) {
  return {readers * bytes / (machine.slow.object_store_gbps * 1e9 * machine.slow.object_store_efficiency)};
}

ModelTime warm_load_time(const Machine& machine, double bytes) {
  return {bytes / (machine.slow.cpu_link_gbps * 1e9 * machine.fabric.read_efficiency)};
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
      const double fitting = std::floor(machine.nodes * machine.slow.dram_gb * 1e9 / bytes);
      costs.hit_rate = std::min(1.0, fitting / models);
      break;
    }
  }
  costs.average_switch =
      costs.hit_rate * costs.warm_start + (1 - costs.hit_rate) * object_store_time(machine, bytes, 1);
  return costs;
}

}  // namespace supernode::emulation
