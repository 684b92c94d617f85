#include "runtime/emulation/exchange_group.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "runtime/core/error.hpp"
#include "runtime/emulation/machine/exchange_rates.hpp"
#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {

ExchangeGroup::ExchangeGroup(const Machine& machine, std::span<const int> dies)
    : machine_(machine),
      dies_(dies.begin(), dies.end()),
      port_(link_gbps(machine, Access::write, Memory::die, 1) * 1e9),
      far_rate_(link_gbps(machine, Access::write, Memory::die, 2) * 1e9),
      package_latency_(link_latency(machine, Access::write, Memory::die, 0).value),
      near_latency_(link_latency(machine, Access::write, Memory::die, 1).value),
      far_latency_(link_latency(machine, Access::write, Memory::die, 2).value),
      leaving_(dies.size()),
      by_end_(dies.size()),
      port_rows_(dies.size()),
      copies_(dies.size()) {
  std::vector<int> node_index(static_cast<std::size_t>(machine.nodes), -1);
  for (int rank = 0; rank < ranks(); ++rank) {
    const DiePlace place = place_of(machine, dies_[static_cast<std::size_t>(rank)]);
    places_.push_back(place);
    int& index = node_index[static_cast<std::size_t>(place.node)];
    if (index < 0) {
      index = static_cast<int>(nodes_.size());
      nodes_.emplace_back();
    }
    node_of_.push_back(index);
    Node& node = nodes_[static_cast<std::size_t>(index)];
    node.ranks.push_back(rank);
    const bool goes_on = !node.runs.empty() && node.runs.back().second == rank &&
                         rank - node.runs.back().first < static_cast<int>(kPorts);
    if (goes_on)
      ++node.runs.back().second;
    else
      node.runs.emplace_back(rank, rank + 1);
  }
}

void ExchangeGroup::leave(const ExchangeStyle& style, std::span<const std::int32_t> rows, double row_bytes,
                          std::span<const ModelTime> starts, double origin) {
  const std::size_t n = dies_.size();
  const double sending = sending_share(machine_, style.vector_share);
  const double before =
      (exchange_start_up(machine_, style.phase) + counts_exchange(machine_, style.direct_writes, style.ranks)).value;
  const double package_rate = machine_.fabric.die_to_die_gbps * 1e9 * sending;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int32_t* row = rows.data() + i * n;
    const std::int64_t all = std::accumulate(row, row + n, std::int64_t{0});
    std::int64_t own = 0, package = 0, node = 0;
    for (const int peer : nodes_[static_cast<std::size_t>(node_of_[i])].ranks) {
      const auto j = static_cast<std::size_t>(peer);
      (j == i ? own : places_[j].npu == places_[i].npu ? package : node) += row[j];
    }
    const auto far = static_cast<double>(all - own - package - node);
    const double fabric = row_bytes * (static_cast<double>(node) / port_ + far / far_rate_) / sending;
    Leaving& left = leaving_[i];
    left.begin = starts[i].value - origin + before;
    left.self_end = left.begin + row_bytes * static_cast<double>(own) / memory_rate(machine_);
    left.package_end = left.begin + row_bytes * static_cast<double>(package) / package_rate;
    left.fabric_end = left.begin + fabric;
    left.rate = fabric > 0 ? row_bytes / port_ / fabric : 0;
  }
}

void ExchangeGroup::order_events() {
  // An end behind the last begin decides nothing at any port; latencies differ by node.
  double last_begin = 0;
  for (const Leaving& left : leaving_) last_begin = std::max(last_begin, left.begin);
  last_begin += far_latency_ - near_latency_;
  events_.clear();
  for (int rank = 0; rank < ranks(); ++rank) {
    const Leaving& left = leaving_[static_cast<std::size_t>(rank)];
    events_.push_back({left.begin, rank, true});
    if (left.fabric_end <= last_begin) events_.push_back({left.fabric_end, rank, false});
  }
  std::sort(events_.begin(), events_.end(), [](const Event& a, const Event& b) { return a.time < b.time; });
  for (Node& node : nodes_) node.events.clear();
  for (const Event& event : events_)
    nodes_[static_cast<std::size_t>(node_of_[static_cast<std::size_t>(event.rank)])].events.push_back(event);
  std::iota(by_end_.begin(), by_end_.end(), 0);
  const auto end_of = [&](int rank) { return leaving_[static_cast<std::size_t>(rank)].fabric_end; };
  std::sort(by_end_.begin(), by_end_.end(), [&](int a, int b) { return end_of(a) < end_of(b); });
}

void ExchangeGroup::order_edges(const Node& node) {
  // Events of other nodes come one latency later, those of this node a shorter one: two ordered lists to merge.
  const int here = node_of_[static_cast<std::size_t>(node.ranks.front())];
  edges_.clear();
  senders_.clear();
  const auto append = [&](const Event& event, double latency) {
    edges_.push_back(
        {event.time + latency, leaving_[static_cast<std::size_t>(event.rank)].rate, nullptr, event.begins});
    senders_.push_back(event.rank);
  };
  auto near = node.events.begin();
  for (const Event& far : events_) {
    if (node_of_[static_cast<std::size_t>(far.rank)] == here) continue;
    for (; near != node.events.end() && near->time + near_latency_ < far.time + far_latency_; ++near)
      append(*near, near_latency_);
    append(far, far_latency_);
  }
  for (; near != node.events.end(); ++near) append(*near, near_latency_);
}

void ExchangeGroup::take_rows(std::span<const std::int32_t> rows, const Node& node, std::pair<int, int> run) {
  // Most senders' rows can be read where they are.
  const std::size_t n = dies_.size();
  const auto first = static_cast<std::size_t>(run.first), lanes = static_cast<std::size_t>(run.second - run.first);
  const auto copied = [&](std::size_t sender) -> std::array<std::int32_t, kPorts>& {
    auto& copy = copies_[sender];
    copy.fill(0);
    std::copy_n(rows.data() + sender * n + first, lanes, copy.begin());
    port_rows_[sender] = copy.data();
    return copy;
  };
  for (std::size_t sender = 0; sender < n; ++sender) {
    port_rows_[sender] = rows.data() + sender * n + first;
    if (lanes < kPorts) copied(sender);
  }
  // What stays in a package does not pass a port.
  for (const int peer : node.ranks) {
    const auto sender = static_cast<std::size_t>(peer);
    auto& copy = copied(sender);
    for (std::size_t lane = 0; lane < lanes; ++lane)
      if (places_[first + lane].npu == places_[sender].npu) copy[lane] = 0;
  }
}

std::array<double, kPorts> ExchangeGroup::last_ends(const Node& node, std::size_t lanes) const {
  const int here = node_of_[static_cast<std::size_t>(node.ranks.front())];
  std::array<double, kPorts> last{};
  for (auto rank = by_end_.rbegin(); rank != by_end_.rend(); ++rank) {
    const auto sender = static_cast<std::size_t>(*rank);
    const double end = leaving_[sender].fabric_end;
    // A sender that ended a little sooner may be farther away, so that its rows are the last ones.
    const double soonest = *std::min_element(last.begin(), last.begin() + static_cast<std::ptrdiff_t>(lanes));
    if (soonest > 0 && end + far_latency_ <= soonest) break;
    const double there = end + (node_of_[sender] == here ? near_latency_ : far_latency_);
    for (std::size_t lane = 0; lane < lanes; ++lane)
      if (port_rows_[sender][lane] > 0) last[lane] = std::max(last[lane], there);
  }
  return last;
}

void ExchangeGroup::receive(std::span<const std::int32_t> rows, double row_bytes, const Node& node,
                            std::pair<int, int> run, std::span<double> arrived, std::span<double> received) {
  const std::size_t n = dies_.size();
  const auto first = static_cast<std::size_t>(run.first), lanes = static_cast<std::size_t>(run.second - run.first);
  take_rows(rows, node, run);
  for (std::size_t i = 0; i < edges_.size(); ++i) edges_[i].rows = port_rows_[static_cast<std::size_t>(senders_[i])];
  const std::array<double, kPorts> last = last_ends(node, lanes);
  const PortQueues queues = follow_ports(edges_, last);
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    const double through = queues.rows[lane];
    arrived[lane] = through > 0 ? std::max(last[lane], queues.idle_until[lane] + through * row_bytes / port_) : 0;
    received[lane] = through * row_bytes;
  }
  for (const int peer : node.ranks) {
    const auto sender = static_cast<std::size_t>(peer);
    const Leaving& left = leaving_[sender];
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const std::size_t to = first + lane;
      const std::int32_t count = rows[sender * n + to];
      if (count <= 0 || places_[to].npu != places_[sender].npu) continue;
      received[lane] += count * row_bytes;
      arrived[lane] = std::max(arrived[lane], sender == to ? left.self_end : left.package_end + package_latency_);
    }
  }
}

void ExchangeGroup::completions(const ExchangeStyle& style, std::span<const std::int32_t> rows, double row_bytes,
                                std::span<const ModelTime> starts, std::span<ModelTime> ends) {
  const std::size_t n = dies_.size();
  expect(rows.size() == n * n && starts.size() == n && ends.size() == n && style.ranks == ranks(),
         "an exchange has a row and a start for each rank");
  const double origin = std::min_element(starts.begin(), starts.end())->value;
  leave(style, rows, row_bytes, starts, origin);
  order_events();
  const double start_up = exchange_start_up(machine_, style.phase).value;
  const ModelTime latest = latest_peer(machine_, style.phase, style.ranks);
  for (const Node& node : nodes_) {
    order_edges(node);
    for (const auto& run : node.runs) {
      std::array<double, kPorts> arrived{}, received{};
      receive(rows, row_bytes, node, run, arrived, received);
      for (int rank = run.first; rank < run.second; ++rank) {
        const auto i = static_cast<std::size_t>(rank), lane = static_cast<std::size_t>(rank - run.first);
        const double in_place = std::max(starts[i].value + start_up, origin + arrived[lane]);
        ends[i] = ModelTime{in_place} + latest + moving_time(machine_, style.phase, style.vector_share, received[lane]);
      }
    }
  }
}

Completion ExchangeGroup::completion(const ExchangeStyle& style, std::span<const std::int32_t> rows, double row_bytes,
                                     std::span<const ModelTime> starts, int rank) {
  const std::size_t n = dies_.size(), self = static_cast<std::size_t>(rank);
  leave(style, rows, row_bytes, starts, 0);
  std::vector<Arrival> arrivals;
  arrivals.reserve(n);
  for (std::size_t from = 0; from < n; ++from) {
    const Leaving& left = leaving_[from];
    const Departure departure{{left.begin}, {left.self_end}, {left.package_end}, {left.fabric_end}};
    if (rows[from * n + self] > 0) arrivals.push_back({dies_[from], row_bytes * rows[from * n + self], departure});
  }
  return completion_of(machine_, style, arrivals, dies_[self], starts[self]);
}

}  // namespace supernode::emulation
