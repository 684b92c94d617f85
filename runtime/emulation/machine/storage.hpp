#pragma once
// The pooled memory and what lies below it: time to read cached blocks into a die, and to load or switch models.

#include "runtime/core/clock.hpp"
#include "runtime/emulation/machine/machine.hpp"
#include "runtime/emulation/machine/terms.hpp"

namespace supernode::emulation {

/// Which network carries the pool.
enum class PoolNetwork { fabric, vpc };

/// Reading `bytes` in pieces of `piece` bytes from host DRAM into one die, while all dies of its node do the same. Each
/// piece costs the client's software path ("requests"), then the link ("transfer"): UB at the die's own rate, or the
/// die's share of the node's Ethernet. Zero bytes cost nothing.
Terms pool_read_time(const Machine& machine, PoolNetwork network, double bytes, double piece);

/// Blocks that were evicted from DRAM: `bytes` from the SSD tier of one node into its DRAM.
ModelTime ssd_read_time(const Machine& machine, double bytes);

/// `readers` instances each read `bytes` from the same bucket of the object store at the same time.
ModelTime object_store_time(const Machine& machine, double bytes, int readers);

/// A model of `bytes` from host DRAM into an instance. One loader process an instance streams it, through its host
/// processor's fabric link.
ModelTime warm_load_time(const Machine& machine, double bytes);

/// How instances come by models: straight from the object store, with a copy in their own host's DRAM, or pooled.
enum class ModelStore { object_store, local_dram, pool };

/// Figures of `instances` that switch among `models` models of `bytes` each.
struct ModelStoreCosts {
  ModelTime cold_start;      ///< all instances load a model that nobody has cached
  ModelTime warm_start;      ///< a cached model; meaningless without a cache
  double dram_overhead = 0;  ///< DRAM held for one model, in model sizes
  double hit_rate = 0;       ///< a switch to a random model finds it cached
  ModelTime average_switch;  ///< one instance switches: hits warm, misses from the object store alone
};
/// Host DRAM holds one model an instance where it is not pooled, all that fit where it is.
ModelStoreCosts model_store_costs(const Machine& machine, ModelStore store, double bytes, int instances, int models);

}  // namespace supernode::emulation
