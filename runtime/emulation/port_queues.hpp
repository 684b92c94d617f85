#pragma once
// The queues at the ports of several dies, whose flows begin and end at the same moments.

#include <array>
#include <cstdint>
#include <span>

namespace supernode::emulation {

/// Ports that are followed together.
inline constexpr std::size_t kPorts = 16;

/// Some sender begins to write to the ports, or ends. Its rows flow evenly in between.
struct PortEdge {
  double time = 0;                     ///< at the ports
  double rate = 0;                     ///< of one row, in work of a port a second; work is counted in seconds of a port
  const std::int32_t* rows = nullptr;  ///< [kPorts] that it sends to each
  bool begins = true;
};

struct PortQueues {
  std::array<double, kPorts> rows{};  ///< that came
  /// The largest of t - (work that came before t) over all begins t of flows up to `last`; -1e300 without any. The port
  /// is empty then, all work added: a queue is empty at the largest t + (work after t), and of all moments only begins
  /// of flows can be that one, and the end of the last flow.
  std::array<double, kPorts> idle_until{};
};

/// @param edges in order of time @param last when each port's last flow ends: later moments say nothing of it
/// O(edges x kPorts). The same bits on every processor.
PortQueues follow_ports(std::span<const PortEdge> edges, const std::array<double, kPorts>& last);

}  // namespace supernode::emulation
