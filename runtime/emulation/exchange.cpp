#include "runtime/emulation/exchange.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/emulation/machine/exchange_rates.hpp"
#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {
namespace {

/// Points in time that differ by less, relatively, are one.
constexpr double kRounding = 1e-12;

/// Rows that come over the fabric: evenly from `begin` to `end`, one latency after they left.
struct Flow {
  double begin, end, bytes, latency;
};

/// What a die waits for longest: rows that a sender wrote between `begin` and `written`, that then took `latency`, and
/// then queued until `time`.
struct LastArrival {
  double time;
  double begin, written, latency;
  const char* path;
};

/// When a queue that drains at `rate` B/s is empty, fed by flows that each arrive evenly over their interval: the
/// largest, over all moments t, of t + (bytes arriving after t) / rate. Piecewise linear, so only the ends of flows
/// matter. That moment t is when the last bytes come, or the begin of a flow that finds the queue empty.
LastArrival drained(const std::vector<Flow>& flows, double rate) {
  struct Edge {
    double time, slope;  // change of the arrival rate when walking back in time
    const Flow* flow;
  };
  std::vector<Edge> edges;
  edges.reserve(2 * flows.size());
  std::vector<std::pair<double, double>> bursts;  // flows without duration: (time, bytes)
  const Flow* last = &flows.front();
  for (const Flow& flow : flows) {
    if (flow.end > last->end) last = &flow;
    const double span = flow.end - flow.begin;
    // Shorter than the clock can tell apart at this point: arrives at once.
    if (span <= kRounding * std::max(1.0, flow.end)) {
      bursts.emplace_back(flow.begin, flow.bytes);
      edges.push_back({flow.begin, 0, &flow});
      continue;
    }
    edges.push_back({flow.end, flow.bytes / span, &flow});
    edges.push_back({flow.begin, -flow.bytes / span, &flow});
  }
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.time > b.time; });
  std::sort(bursts.begin(), bursts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  LastArrival best{last->end, last->begin - last->latency, last->end - last->latency, last->latency, "fabric link"};
  double after = 0, slope = 0, time = best.time;
  std::size_t burst = 0;
  for (const Edge& edge : edges) {
    after += slope * (time - edge.time);
    time = edge.time;
    while (burst < bursts.size() && bursts[burst].first >= time) after += bursts[burst++].second;
    slope += edge.slope;
    const double empty = time + after / rate;
    // Senders that keep the port just busy do not queue, whatever the rounding.
    if (empty > best.time * (1 + kRounding)) {
      const double left = time - edge.flow->latency;
      best = {empty, left, left, edge.flow->latency, "fabric link"};
    }
  }
  return best;
}

/// Cuts the time from `start` on into terms, one behind the other. What ends before the term before it adds none.
class TermCutter {
 public:
  explicit TermCutter(double start) : at_(start) {}
  void until(const char* name, double time) {
    if (time <= at_ * (1 + kRounding)) return;
    terms_.add(name, {time - at_});
    at_ = time;
  }
  /// A term of known length.
  void add(const char* name, double seconds) {
    if (seconds <= 0) return;
    terms_.add(name, {seconds});
    at_ += seconds;
  }
  const Terms& terms() const { return terms_; }

 private:
  double at_;
  Terms terms_;
};

}  // namespace

Departure departure_of(const Machine& machine, const ExchangeStyle& style, std::span<const double> row,
                       std::span<const int> dies, int self, ModelTime start) {
  const double begin =
      (start + exchange_start_up(machine, style.phase) + counts_exchange(machine, style.direct_writes, style.ranks))
          .value;
  double own = 0, package = 0, fabric = 0;
  const double sending = sending_share(machine, style.vector_share);
  const DiePlace here = place_of(machine, dies[static_cast<std::size_t>(self)]);
  for (std::size_t peer = 0; peer < row.size(); ++peer) {
    if (row[peer] <= 0) continue;
    const DiePlace there = place_of(machine, dies[peer]);
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

Completion completion_of(const Machine& machine, const ExchangeStyle& style, std::span<const Arrival> arrivals,
                         int self, ModelTime start) {
  const DiePlace here = place_of(machine, self);
  const double own_s = exchange_start_up(machine, style.phase).value, ready = start.value + own_s;
  LastArrival last{ready, ready, ready, 0, ""};
  const auto consider = [&](const LastArrival& one) {
    if (one.time > last.time) last = one;
  };
  double received = 0;
  std::vector<Flow> queue;
  queue.reserve(arrivals.size());
  for (const Arrival& arrival : arrivals) {
    if (arrival.bytes <= 0) continue;
    received += arrival.bytes;
    const DiePlace there = place_of(machine, arrival.from);
    const Departure& left = arrival.departure;
    if (there.die == here.die) {
      consider({left.self_end.value, left.begin.value, left.self_end.value, 0, "own memory"});
      continue;
    }
    const int hop = there.npu == here.npu ? 0 : there.node == here.node ? 1 : 2;
    const double latency = link_latency(machine, Access::write, Memory::die, hop).value;
    if (hop == 0)
      consider({left.package_end.value + latency, left.begin.value, left.package_end.value, latency, "package link"});
    else
      queue.push_back({left.begin.value + latency, left.fabric_end.value + latency, arrival.bytes, latency});
  }
  if (!queue.empty()) consider(drained(queue, link_gbps(machine, Access::write, Memory::die, 1) * 1e9));

  TermCutter cut(start.value);
  cut.add("start-up", own_s);
  cut.until("exchange of counts",
            std::min(ready + counts_exchange(machine, style.direct_writes, style.ranks).value, last.time));
  cut.until("waiting for a sender", last.begin);
  cut.until(last.path, last.written);
  cut.until("latency", last.written + last.latency);
  cut.until("queue at the port", last.time);
  const ModelTime latest = latest_peer(machine, style.phase, style.ranks);
  const ModelTime moving = moving_time(machine, style.phase, style.vector_share, received);
  cut.add("latest peer", latest.value);
  cut.add("rows in local memory", moving.value);
  return {ModelTime{last.time} + latest + moving, cut.terms()};
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
    times[to] = completion_of(machine, style, arrivals, dies[to], starts[to]).end;
  }
  return times;
}

Terms exchange_time(const Machine& machine, const ExchangeStyle& style, double sent, double hot_out, double hot_in) {
  const auto n = static_cast<std::size_t>(style.ranks);
  std::vector<int> dies(n);
  std::iota(dies.begin(), dies.end(), 0);
  const double each = sent / static_cast<double>(n);
  std::vector<double> row(n, each);
  const Departure usual = departure_of(machine, style, row, dies, 0, {});
  std::vector<Arrival> arrivals(n);
  // The busiest receiver of usual senders.
  for (std::size_t i = 0; i < n; ++i) arrivals[i] = {dies[i], hot_in * each, usual};
  Completion slowest = completion_of(machine, style, arrivals, dies[0], {});
  if (hot_out > 1) {
    // A usual receiver, one of whose senders is the busiest: that one's row is longer to every peer.
    for (double& bytes : row) bytes = hot_out * each;
    const std::size_t busy = n - 1;
    for (std::size_t i = 0; i < n; ++i) arrivals[i] = {dies[i], each, usual};
    arrivals[busy] = {dies[busy], hot_out * each, departure_of(machine, style, row, dies, static_cast<int>(busy), {})};
    const Completion behind_it = completion_of(machine, style, arrivals, dies[0], {});
    if (behind_it.end > slowest.end) slowest = behind_it;
  }
  return slowest.terms;
}

}  // namespace supernode::emulation
