#pragma once
// The links that several dies share, on the modelled clock: which transfer goes first, and when it has arrived. Pure.
//
// A port is one direction of one link. It serves transfers in the order of the calls, which the coordinator makes in
// modelled order. A transfer begins when both of its ports are free, ends after bytes / (the slower rate), and occupies
// each port for bytes / (that port's own rate). So a host, whose port is faster than a die's, serves several dies at a
// time, and over the time of its queue gives no more than its rate. A host's port is never idle while something that was
// asked for waits at it: a die with several transfers takes up their hosts' ports from when it asks.
//
// Rates, GB/s, from the machine file (emulation/machine):
//   port              UB                                         VPC
//   die in   (load)   link_gbps(read, host, 2 hops)              vpc_gbps x vpc_efficiency / dies of a node
//   die out  (store)  link_gbps(write, host, 2 hops)             the same
//   owner out (load)  cpu_link_gbps x read_efficiency x CPUs     vpc_gbps x vpc_efficiency
//   owner in (store)  cpu_link_gbps x write_efficiency x CPUs    the same
//   die's RDMA, out and in (hand-over)  rdma_gbps
// An owner is a CPU host: it has all CPUs of a node, and the node's Ethernet. A die has its fixed share of the node's
// Ethernet, as in pool_read_time: so dies of one node need no common port.
//
// Beside the link, each piece costs the die's pool client pool_request_us. The client works on one load at a time, and
// on one store beside it; this time is the die's alone and keeps no owner's port. Alone, a load takes exactly
// pool_read_time; a store takes the same formula with the rates of writes. Both take longer where the owner's port is
// slower than the die's.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/emulation/machine/machine.hpp"
#include "runtime/emulation/machine/storage.hpp"
#include "runtime/serving/coordinator/owner_share.hpp"
#include "runtime/serving/load/run_time.hpp"

namespace supernode::serving {

/// A load under way. ready == when it was asked for + uncontended + queued.
struct PoolLoadTimes {
  RunTime ready;          ///< all bytes are in the die
  RunSpan uncontended{};  ///< what it takes alone
  RunSpan queued{};       ///< waiting for the die's own earlier loads, and for the owners' ports
};

/// What one kind of transfer came to.
struct PortTotals {
  std::uint64_t transfers = 0;
  std::int64_t bytes = 0;
  RunSpan uncontended{}, queued{};  ///< sums over the transfers
};

/// Times are whole nanoseconds and a function of the calls and their order alone. Of transfers asked for at the same
/// time, the first asked goes first. Dies and owners count from 0 over the whole run.
class SharedPorts {
 public:
  SharedPorts(const emulation::Machine& machine, emulation::PoolNetwork network, int dies, int owners);

  /// Blocks from their owners into a die, all asked for at `now`. The die takes the owner first whose port is free
  /// first, of equals the first named. Nothing is ready at once. O(k log k) for k owners.
  PoolLoadTimes loads(int die, std::span<const OwnerShare> shares, RunTime now);
  /// New blocks from a die to their owners. @returns when all are written: when they become visible
  RunTime stores(int die, std::span<const OwnerShare> shares, RunTime now);
  /// A request's KV over the RDMA network. @returns when all of it has arrived
  RunTime handover(int from_die, int to_die, std::int64_t bytes, RunTime now);

  const PortTotals& load_totals() const { return load_.totals; }
  const PortTotals& store_totals() const { return store_.totals; }
  const PortTotals& handover_totals() const { return handover_; }

 private:
  /// One direction between dies and owners.
  struct PoolDirection {
    double die_gbps = 0, owner_gbps = 0;
    std::vector<RunTime> die_free;    ///< [die] when its client has ended the last transfer asked for
    std::vector<RunTime> owner_free;  ///< [owner] when its port is free
    PortTotals totals;
  };

  /// The rule of loads(), for either direction.
  PoolLoadTimes move(PoolDirection& direction, int die, std::span<const OwnerShare> shares, RunTime now);
  /// Of one transfer of a die, without waiting.
  RunSpan alone(const PoolDirection& direction, std::int64_t bytes, std::int64_t pieces) const;

  emulation::Machine machine_;
  emulation::PoolNetwork network_;
  PoolDirection load_, store_;
  std::vector<RunTime> rdma_out_free_, rdma_in_free_;  ///< [die]
  PortTotals handover_;
  std::vector<OwnerShare> queue_;  ///< of the call under way
};

}  // namespace supernode::serving
