#pragma once
// An exchange as a simulation that walks forward in time, from the numbers of a machine file alone.

#include <algorithm>
#include <array>
#include <vector>

#include "runtime/emulation/exchange.hpp"

namespace supernode::emulation {

/// @param bytes [ranks x ranks], row = sender
struct ExchangeCase {
  std::vector<double> bytes;
  std::vector<int> dies;
  std::vector<ModelTime> starts;
};

/// When a queue that drains at `rate` is empty: walks forward in time, with the backlog as its state.
inline double queue_empty(const std::vector<std::array<double, 3>>& flows, double rate) {  // {begin, end, bytes}
  std::vector<double> moments;
  for (const auto& [begin, end, bytes] : flows) moments.insert(moments.end(), {begin, end});
  std::sort(moments.begin(), moments.end());
  double backlog = 0;
  for (std::size_t i = 0; i + 1 < moments.size(); ++i) {
    const double from = moments[i], to = moments[i + 1];
    double arriving = 0;
    for (const auto& [begin, end, bytes] : flows)
      if (begin <= from && to <= end && end > begin) arriving += bytes * (to - from) / (end - begin);
    backlog = std::max(0.0, backlog + arriving - rate * (to - from));
  }
  return moments.back() + backlog / rate;
}

/// When rank `me` has everything, from the numbers of the machine file alone.
inline double reference_end(const Machine& m, const ExchangeStyle& style, const ExchangeCase& c, std::size_t me) {
  const std::size_t n = c.dies.size();
  const bool dispatch = style.phase == Phase::dispatch;
  double lateness = 0;
  for (std::size_t i = 1; i <= n; ++i) lateness += m.exchange.skew_us * 1e-6 / static_cast<double>(i);
  const double start_up = 1e-6 * (dispatch ? m.exchange.dispatch_start_us : m.exchange.combine_start_us);
  const double counts = style.direct_writes ? 0 : m.exchange.staged_start_us * 1e-6 + lateness;
  const double share = std::min(1.0, style.vector_share * m.die.vector_cores / m.exchange.filling_cores);
  const double memory = m.die.memory_gbps * 1e9 * m.die.memory_efficiency;
  const double port = m.fabric.planes * m.fabric.lane_gbps * 1e9 * m.fabric.write_efficiency;
  const auto node = [&](std::size_t rank) { return c.dies[rank] / m.dies_per_node(); };
  double done = c.starts[me].value + start_up, received = 0;
  std::vector<std::array<double, 3>> flows;
  for (std::size_t from = 0; from < n; ++from) {
    const double bytes = c.bytes[from * n + me];
    if (bytes <= 0) continue;
    received += bytes;
    const double begin = c.starts[from].value + start_up + counts;
    double own = 0, package = 0, fabric = 0;
    for (std::size_t to = 0; to < n; ++to) {
      const double row = c.bytes[from * n + to];
      if (to == from)
        own += row / memory;
      else if (c.dies[to] / 2 == c.dies[from] / 2)
        package += row / (m.fabric.die_to_die_gbps * 1e9 * share);
      else
        fabric += row / (port * share * (node(to) == node(from) ? 1 : m.fabric.distance_factor));
    }
    const double far = node(from) == node(me) ? 0 : m.fabric.second_hop_us;
    if (from == me)
      done = std::max(done, begin + own);
    else if (c.dies[from] / 2 == c.dies[me] / 2)
      done = std::max(done, begin + package + m.fabric.die_to_die_us * 1e-6);
    else
      flows.push_back(
          {begin + (m.fabric.write_us + far) * 1e-6, begin + fabric + (m.fabric.write_us + far) * 1e-6, bytes});
  }
  if (!flows.empty()) done = std::max(done, queue_empty(flows, port));
  return done + (dispatch ? lateness : 0) + (dispatch ? 2 : 1) * received / (memory * share);
}

}  // namespace supernode::emulation
