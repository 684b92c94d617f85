#include "runtime/serving/fleet/wall_fleet.hpp"

#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {

WallFleet::WallFleet(const ServingConfig& config, RequestSource& source, MessagePort& port, double deadline_s,
                     WallTime (*clock)())
    : config_(config),
      source_(source),
      port_(port),
      deadline_s_(deadline_s),
      clock_(clock),
      start_(clock()),
      wire_(config),
      liveness_(deadline_s, start_.value) {}

Event WallFleet::next() {
  SpinWait spin(Idle::sleep);
  for (;;) {
    if (std::optional<Event> arrival = source_.poll(now())) return std::move(*arrival);
    if (const std::optional<Message> message = port_.poll()) {
      Stamped<FleetWire::Incoming> report = wire_.decode(message->source, message->bytes);
      liveness_.reported(message->source, clock_().value);
      if (std::holds_alternative<Stopped>(report.what))
        throw EnvironmentError(
            fmt::format("rank 0 (coordinator): rank {} stopped without being told to", message->source));
      Event event{now(), {}};
      if (auto* batch = std::get_if<PrefillReported>(&report.what)) event.what = std::move(*batch);
      if (auto* kv = std::get_if<KvArrived>(&report.what)) event.what = *kv;
      if (auto* iteration = std::get_if<DecodeReported>(&report.what)) event.what = std::move(*iteration);
      return event;
    }
    watch();
    spin.turn();
  }
}

void WallFleet::perform(const Command& command, RunTime time) { send(wire_.encode(command, time)); }

WorkerStatistics WallFleet::stop() {
  expect(quiet(), "a fleet is stopped while something is under way");
  std::vector<Outgoing> orders = wire_.encode_for_all(StopOrder{}, now());
  for (Outgoing& order : orders) order.owes = "its last word";
  const std::size_t workers = orders.size();
  send(std::move(orders));
  WorkerStatistics sum;
  SpinWait spin(Idle::sleep);
  for (std::size_t stopped = 0; stopped < workers;) {
    const std::optional<Message> message = port_.poll();
    if (!message) {
      watch();
      spin.turn();
      continue;
    }
    const Stamped<FleetWire::Incoming> report = wire_.decode(message->source, message->bytes);
    const auto* last = std::get_if<Stopped>(&report.what);
    if (!last)
      throw EnvironmentError(
          fmt::format("rank 0 (coordinator): rank {} reported something after the end", message->source));
    liveness_.reported(message->source, clock_().value);
    ++stopped;
    sum.lookups += last->statistics.lookups;
    sum.hits += last->statistics.hits;
    sum.stored_blocks += last->statistics.stored_blocks;
    sum.dropped_blocks += last->statistics.dropped_blocks;
    for (const auto& [reason, count] : last->statistics.miss_reasons) sum.miss_reasons[reason] += count;
  }
  port_.flush(deadline_s_);
  return sum;
}

void WallFleet::send(std::vector<Outgoing> messages) {
  for (Outgoing& message : messages) {
    port_.send(message.rank, static_cast<int>(message.kind), std::move(message.bytes));
    if (!message.owes.empty()) liveness_.owe(message.rank, message.owes, clock_().value);
  }
}

void WallFleet::watch() {
  const double now_s = clock_().value;
  // It looks at every rank, so a turn of the loop must not.
  if (!liveness_.keep_alive_due(now_s)) return;
  send(wire_.encode_for_all(KeepAlive{}, now()));
  if (const auto overdue = liveness_.overdue(now_s)) give_up(*overdue);
}

void WallFleet::give_up(const Liveness::Overdue& overdue) const {
  const Part part = part_of(config_, overdue.rank);
  throw TimeoutError(fmt::format("rank 0 (coordinator): rank {} ({} instance {}, die {}) did not report {} within {} s",
                                 overdue.rank, to_string(part.role), part.instance, part.die, overdue.what,
                                 deadline_s_));
}

}  // namespace supernode::serving
