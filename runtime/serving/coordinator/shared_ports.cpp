#include "runtime/serving/coordinator/shared_ports.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"
#include "runtime/emulation/machine/links.hpp"

namespace supernode::serving {
namespace {

using emulation::Access;

RunSpan transfer_span(std::int64_t bytes, double gbps) { return run_span(static_cast<double>(bytes) / (gbps * 1e9)); }

double die_gbps(const emulation::Machine& machine, emulation::PoolNetwork network, Access access) {
  if (network == emulation::PoolNetwork::fabric)
    return link_gbps(machine, access, emulation::Memory::host, 2);  // owners are on other nodes
  return machine.host_path.vpc_gbps * machine.host_path.vpc_efficiency / machine.dies_per_node();
}

double owner_gbps(const emulation::Machine& machine, emulation::PoolNetwork network, Access access) {
  if (network == emulation::PoolNetwork::vpc) return machine.host_path.vpc_gbps * machine.host_path.vpc_efficiency;
  const double efficiency = access == Access::read ? machine.fabric.read_efficiency : machine.fabric.write_efficiency;
  return machine.host_path.cpu_link_gbps * efficiency * machine.cpus_per_node;
}

RunTime& port_of(std::vector<RunTime>& ports, int number) {
  expect(number >= 0 && static_cast<std::size_t>(number) < ports.size(), "a transfer at a port that is not there");
  return ports[static_cast<std::size_t>(number)];
}

void count(PortTotals& totals, std::int64_t bytes, RunSpan uncontended, RunSpan queued) {
  ++totals.transfers;
  totals.bytes += bytes;
  totals.uncontended += uncontended;
  totals.queued += queued;
}

}  // namespace

SharedPorts::SharedPorts(const emulation::Machine& machine, emulation::PoolNetwork network, int dies, int owners)
    : machine_(machine),
      network_(network),
      rdma_out_free_(static_cast<std::size_t>(dies)),
      rdma_in_free_(static_cast<std::size_t>(dies)) {
  const auto direction = [&](Access access) {
    return PoolDirection{.die_gbps = die_gbps(machine, network, access),
                         .owner_gbps = owner_gbps(machine, network, access),
                         .die_free = std::vector<RunTime>(static_cast<std::size_t>(dies)),
                         .owner_free = std::vector<RunTime>(static_cast<std::size_t>(owners)),
                         .totals = {}};
  };
  load_ = direction(Access::read);
  store_ = direction(Access::write);
}

PoolLoadTimes SharedPorts::loads(int die, std::span<const OwnerShare> shares, RunTime now) {
  return move(load_, die, shares, now);
}

RunTime SharedPorts::stores(int die, std::span<const OwnerShare> shares, RunTime now) {
  return move(store_, die, shares, now).ready;
}

RunSpan SharedPorts::alone(const PoolDirection& direction, std::int64_t bytes, std::int64_t pieces) const {
  const auto size = static_cast<double>(bytes);
  const emulation::Terms read = pool_read_time(machine_, network_, size, size / static_cast<double>(pieces));
  const double rate = std::min(direction.die_gbps, direction.owner_gbps) * 1e9;
  return run_span(read.of("requests").value + size / rate);
}

PoolLoadTimes SharedPorts::move(PoolDirection& direction, int die, std::span<const OwnerShare> shares, RunTime now) {
  RunTime& client_free = port_of(direction.die_free, die);
  if (shares.empty()) return {now, {}, {}};
  queue_.assign(shares.begin(), shares.end());
  std::stable_sort(queue_.begin(), queue_.end(), [&](const OwnerShare& a, const OwnerShare& b) {
    return port_of(direction.owner_free, a.owner) < port_of(direction.owner_free, b.owner);
  });

  // The transfers follow one another on the die's link. An owner's port is given what was asked for, one behind the
  // other from now on, whenever the die comes to it: a place kept for later would leave the port idle until then. The
  // client's work on pieces is added at the end, as it holds up no port.
  const RunTime begin = std::max(now, client_free);
  const double slower = std::min(direction.die_gbps, direction.owner_gbps);
  RunTime link_free = begin;
  RunSpan waited{};
  std::int64_t bytes = 0, pieces = 0;
  for (const OwnerShare& share : queue_) {
    expect(share.bytes > 0 && share.pieces > 0, "a pool transfer of nothing");
    RunTime& owner_free = port_of(direction.owner_free, share.owner);
    const RunTime start = std::max(link_free, owner_free);
    waited += start - link_free;
    owner_free = std::max(owner_free, now) + transfer_span(share.bytes, direction.owner_gbps);
    link_free = start + transfer_span(share.bytes, slower);
    bytes += share.bytes;
    pieces += share.pieces;
  }

  PoolLoadTimes times;
  times.uncontended = alone(direction, bytes, pieces);
  times.queued = begin - now + waited;
  times.ready = client_free = now + times.queued + times.uncontended;
  count(direction.totals, bytes, times.uncontended, times.queued);
  return times;
}

RunTime SharedPorts::handover(int from_die, int to_die, std::int64_t bytes, RunTime now) {
  expect(bytes > 0, "a hand-over of nothing");
  RunTime& out_free = port_of(rdma_out_free_, from_die);
  RunTime& in_free = port_of(rdma_in_free_, to_die);
  const RunTime start = std::max({now, out_free, in_free});
  const RunSpan span = transfer_span(bytes, machine_.host_path.rdma_gbps);
  out_free = in_free = start + span;
  count(handover_, bytes, span, start - now);
  return start + span;
}

}  // namespace supernode::serving
