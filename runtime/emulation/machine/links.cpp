#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {

double link_gbps(const Machine& machine, Access access, Memory memory, int hops) {
  const Fabric& f = machine.fabric;
  if (hops == 0 && memory == Memory::die) return f.die_to_die_gbps;
  double gbps = machine.fabric_gbps() * (access == Access::read ? f.read_efficiency : f.write_efficiency);
  if (memory == Memory::host) gbps *= access == Access::read ? f.host_read_factor : f.host_write_factor;
  return hops >= 2 ? gbps * f.distance_factor : gbps;
}

ModelTime link_latency(const Machine& machine, Access access, Memory memory, int hops) {
  const Fabric& f = machine.fabric;
  if (hops == 0 && memory == Memory::die) return {f.die_to_die_us * 1e-6};
  double us = access == Access::read ? f.read_us : f.write_us;
  if (memory == Memory::host) us = us > f.host_saves_us ? us - f.host_saves_us : 0;
  if (hops >= 2) us += f.second_hop_us;
  return {us * 1e-6};
}

Terms link_time(const Machine& machine, Access access, Memory memory, int hops, double bytes) {
  Terms terms;
  terms.add("latency", link_latency(machine, access, memory, hops));
  terms.add("transfer", {bytes / (link_gbps(machine, access, memory, hops) * 1e9)});
  return terms;
}

SwitchPlan switch_plan(const Machine& machine, int nodes) {
  const Fabric& f = machine.fabric;
  const int pair_ports = 2 * f.ports_per_switch;
  const int links = nodes * f.uplinks_per_plane;  // of one plane
  const int pairs = (links + pair_ports - 1) / pair_ports;
  return {f.planes * pairs, static_cast<double>(links) / (pairs * pair_ports)};
}

}  // namespace supernode::emulation
