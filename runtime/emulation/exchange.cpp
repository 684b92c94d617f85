#include "runtime/emulation/exchange.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {
namespace {

double memory_rate(const Machine& machine) { return machine.die.memory_gbps * 1e9 * machine.die.memory_efficiency; }

/// Vector cores move the rows themselves; a few of them are as fast as all, fewer are not.
double sending_share(const Machine& machine, double vector_share) {
  return std::min(1.0, vector_share * machine.die.vector_cores / machine.exchange.filling_cores);
}

double local_rate(const Machine& machine, double vector_share) {
  return memory_rate(machine) * sending_share(machine, vector_share);
}

struct Flow {
  double begin, end, bytes;
};

/// When a queue that drains at `rate` B/s is empty, fed by flows that each arrive evenly over their interval: the
/// largest, over all moments t, of t + (bytes arriving after t) / rate. Piecewise linear, so only the ends of flows
/// matter.
double drained(std::vector<Flow>& flows, double rate) {
  struct Edge {
    double time, slope;  // change of the arrival rate when walking back in time
  };
  std::vector<Edge> edges;
  edges.reserve(2 * flows.size());
  std::vector<std::pair<double, double>> bursts;  // flows without duration: (time, bytes)
  double last = 0;
  for (const Flow& flow : flows) {
    last = std::max(last, flow.end);
    const double span = flow.end - flow.begin;
    // Shorter than the clock can tell apart at this point: arrives at once.
    if (span <= 1e-12 * std::max(1.0, flow.end)) {
      bursts.emplace_back(flow.begin, flow.bytes);
      continue;
    }
    edges.push_back({flow.end, flow.bytes / span});
    edges.push_back({flow.begin, -flow.bytes / span});
  }
  for (const auto& [time, bytes] : bursts) edges.push_back({time, 0});
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.time > b.time; });
  std::sort(bursts.begin(), bursts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  double best = last, after = 0, slope = 0, time = last;
  std::size_t burst = 0;
  for (const Edge& edge : edges) {
    after += slope * (time - edge.time);
    time = edge.time;
    while (burst < bursts.size() && bursts[burst].first >= time) after += bursts[burst++].second;
    slope += edge.slope;
    best = std::max(best, time + after / rate);
  }
  return best;
}

}  // namespace

double harmonic(int peers) {
  double sum = 0;
  for (int i = peers; i >= 1; --i) sum += 1.0 / i;
  return sum;
}

Departure departure_of(const Machine& machine, const ExchangeStyle& style, std::span<const double> row,
                       std::span<const int> dies, int self, ModelTime start) {
  const ExchangeCosts& costs = machine.exchange;
  double us = style.phase == Phase::dispatch ? costs.dispatch_start_us : costs.combine_start_us;
  // The copy engine must be told sizes: one more exchange, of counts, before the data.
  if (!style.direct_writes) us += costs.staged_start_us + costs.skew_us * harmonic(style.ranks);
  const double begin = start.value + us * 1e-6;
  double own = 0, package = 0, fabric = 0;
  const double sending = sending_share(machine, style.vector_share);
  const Place here = place_of(machine, dies[static_cast<std::size_t>(self)]);
  for (std::size_t peer = 0; peer < row.size(); ++peer) {
    if (row[peer] <= 0) continue;
    const Place there = place_of(machine, dies[peer]);
    if (there.die == here.die) {
      own += row[peer] / memory_rate(machine);
    } else if (there.npu == here.npu) {
      package += row[peer] / (machine.fabric.die_to_die_gbps * 1e9 * sending);
    } else {
      const int hop = there.node == here.node ? 1 : 2;
      fabric += row[peer] / (link_gbps(machine, Access::write, Memory::die, hop) * 1e9 * sending);
    }
  }
  return {{begin}, {begin + own}, {begin + package}, {begin + fabric}};
}

ModelTime completion_of(const Machine& machine, const ExchangeStyle& style, std::span<const Arrival> arrivals, int self,
                        ModelTime start) {
  const ExchangeCosts& costs = machine.exchange;
  const Place here = place_of(machine, self);
  const double own_us = style.phase == Phase::dispatch ? costs.dispatch_start_us : costs.combine_start_us;
  double done = start.value + own_us * 1e-6, received = 0;
  std::vector<Flow> queue;
  queue.reserve(arrivals.size());
  for (const Arrival& arrival : arrivals) {
    if (arrival.bytes <= 0) continue;
    received += arrival.bytes;
    const Place there = place_of(machine, arrival.from);
    if (there.die == here.die) {
      done = std::max(done, arrival.departure.self_end.value);
      continue;
    }
    const int hop = there.npu == here.npu ? 0 : there.node == here.node ? 1 : 2;
    const double latency = link_latency(machine, Access::write, Memory::die, hop).value;
    if (hop == 0) {
      done = std::max(done, arrival.departure.package_end.value + latency);
    } else {
      queue.push_back(
          {arrival.departure.begin.value + latency, arrival.departure.fabric_end.value + latency, arrival.bytes});
    }
  }
  if (!queue.empty()) done = std::max(done, drained(queue, link_gbps(machine, Access::write, Memory::die, 1) * 1e9));
  // Dispatch polls one flag of every peer and so waits for the latest; a token's combine waits only for its own
  // experts, which its start-up covers.
  if (style.phase == Phase::dispatch) done += costs.skew_us * 1e-6 * harmonic(style.ranks);
  // Dispatch reads and writes each row once to sort them by expert; combine reads each to add it up.
  const double passes = style.phase == Phase::dispatch ? 2 : 1;
  return {done + passes * received / local_rate(machine, style.vector_share)};
}

std::vector<ModelTime> exchange_times(const Machine& machine, const ExchangeStyle& style, std::span<const double> bytes,
                                      std::span<const int> dies, std::span<const ModelTime> starts) {
  const std::size_t n = dies.size();
  std::vector<Departure> departures(n);
  for (std::size_t i = 0; i < n; ++i)
    departures[i] = departure_of(machine, style, bytes.subspan(i * n, n), dies, static_cast<int>(i), starts[i]);
  std::vector<ModelTime> times(n);
  std::vector<Arrival> arrivals(n);
  for (std::size_t to = 0; to < n; ++to) {
    for (std::size_t from = 0; from < n; ++from) arrivals[from] = {dies[from], bytes[from * n + to], departures[from]};
    times[to] = completion_of(machine, style, arrivals, dies[to], starts[to]);
  }
  return times;
}

ModelTime exchange_time(const Machine& machine, const ExchangeStyle& style, double sent, double hot_out,
                        double hot_in) {
  const auto n = static_cast<std::size_t>(style.ranks);
  std::vector<int> dies(n);
  std::iota(dies.begin(), dies.end(), 0);
  const double each = sent / static_cast<double>(n);
  std::vector<double> row(n, each);
  const Departure usual = departure_of(machine, style, row, dies, 0, {});
  std::vector<Arrival> arrivals(n);
  // The busiest receiver of usual senders.
  for (std::size_t i = 0; i < n; ++i) arrivals[i] = {dies[i], hot_in * each, usual};
  ModelTime slowest = completion_of(machine, style, arrivals, dies[0], {});
  if (hot_out > 1) {
    // A usual receiver, one of whose senders is the busiest: that one's row is longer to every peer.
    for (double& bytes : row) bytes = hot_out * each;
    const std::size_t busy = n - 1;
    for (std::size_t i = 0; i < n; ++i) arrivals[i] = {dies[i], each, usual};
    arrivals[busy] = {dies[busy], hot_out * each, departure_of(machine, style, row, dies, static_cast<int>(busy), {})};
    slowest = std::max(slowest, completion_of(machine, style, arrivals, dies[0], {}));
  }
  return slowest;
}

}  // namespace supernode::emulation
