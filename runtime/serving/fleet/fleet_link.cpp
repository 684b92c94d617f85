#include "runtime/serving/fleet/fleet_link.hpp"

#include <map>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {

FleetLink::FleetLink(const ServingConfig& config, MessagePort& port, double deadline_s, WallTime (*clock)(),
                     CacheOrders cache, StepLog* steps)
    : config_(config),
      port_(port),
      deadline_s_(deadline_s),
      clock_(clock),
      wire_(config, cache),
      liveness_(deadline_s, clock().value),
      steps_(config, steps) {}

void FleetLink::send(std::vector<Outgoing> messages) {
  for (Outgoing& message : messages) {
    port_.send(message.rank, static_cast<int>(message.kind), std::move(message.bytes));
    if (message.owes) liveness_.owe(message.rank, *message.owes, clock_().value);
  }
}

std::optional<Stamped<FleetWire::Incoming>> FleetLink::poll() {
  std::optional<Message> message = port_.poll();
  for (; message && is_step_piece(message->bytes); message = port_.poll()) steps_.take(message->source, message->bytes);
  if (!message) return std::nullopt;
  Stamped<FleetWire::Incoming> report = wire_.decode(message->source, message->bytes);
  // Only what was asked for is taken: before the end no last report, after it nothing else.
  liveness_.reported(message->source, FleetWire::owed_as(report.what));
  return report;
}

void FleetLink::keep_alive(WallTime looked, RunTime stamp) {
  if (liveness_.keep_alive_due(looked.value)) send(wire_.encode_for_all(KeepAlive{}, stamp));
}

void FleetLink::give_up_if_overdue(WallTime looked) const {
  const std::optional<Liveness::Overdue> overdue = liveness_.overdue(looked.value);
  if (!overdue) return;
  const Part part = part_of(config_, overdue->rank);
  // Dies that step together wait for one another, so the one that is named need not be the one that stopped.
  const std::string others =
      overdue->others.empty() ? "" : fmt::format("; nor did rank {}", fmt::join(overdue->others, ", rank "));
  throw TimeoutError(fmt::format(
      "rank 0 (coordinator): rank {} ({} instance {}, die {}) did not report {} within {} s{}", overdue->rank,
      to_string(part.role), part.instance, part.die, to_string(overdue->report), deadline_s_, others));
}

WorkerStatistics FleetLink::stop(RunTime stamp, Unfinished unfinished) {
  expect(quiet(), "a fleet is stopped while something is under way");
  // No keep-alives from here on: a worker that has its order to stop waits for no other, and would not take it.
  send(wire_.encode_for_all(StopOrder{unfinished}, stamp));
  std::map<int, WorkerStatistics> by_rank;
  SpinWait spin(Idle::bell);
  while (!liveness_.quiet()) {
    const WallTime looked = clock_();
    auto report = poll();
    if (!report) {
      give_up_if_overdue(looked);
      spin.turn();
      continue;
    }
    Stopped& stopped = std::get<Stopped>(report->what);
    by_rank[stopped.rank] = std::move(stopped.statistics);
  }
  port_.flush(deadline_s_);
  // In the order of ranks, whoever was first: the sum of seconds is then the same in each run.
  WorkerStatistics sum;
  for (const auto& [rank, counts] : by_rank) sum += counts;
  return sum;
}

}  // namespace supernode::serving
