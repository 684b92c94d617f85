#pragma once
// Point-to-point costs on the fabric: what one die measures when it reads or writes another die or host DRAM.

#include "runtime/core/clock.hpp"
#include "runtime/emulation/machine/machine.hpp"
#include "runtime/emulation/machine/terms.hpp"

namespace supernode::emulation {

enum class Access { read, write };
enum class Memory { die, host };

/// Sustained bandwidth in GB/s. @param hops 0 same package (die memory only), 1 same node, 2 across nodes
double link_gbps(const Machine& machine, Access access, Memory memory, int hops);

/// Latency of a small access.
ModelTime link_latency(const Machine& machine, Access access, Memory memory, int hops);

/// "latency", and "transfer" = bytes / bandwidth.
Terms link_time(const Machine& machine, Access access, Memory memory, int hops, double bytes);

/// Second-tier switch chips that a machine of `nodes` nodes needs, and the share of their ports in use: each plane
/// joins all nodes' uplinks by chips taken in pairs (a logical switch is two chips).
struct SwitchPlan {
  int logical_switches = 0;
  double utilisation = 0;  ///< of ports, (0, 1]
};
SwitchPlan switch_plan(const Machine& machine, int nodes);

}  // namespace supernode::emulation
