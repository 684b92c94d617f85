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
    // One look at the clock for all: an arrival that is found later is then never earlier than a report found now.
    const WallTime looked = clock_();
    // At each turn, also while reports keep coming: an idle worker must hear from the coordinator all the same.
    if (liveness_.keep_alive_due(looked.value)) send(wire_.encode_for_all(KeepAlive{}, run_time(looked)));
    if (std::optional<Event> arrival = source_.poll(run_time(looked))) return std::move(*arrival);
    if (std::optional<FleetWire::Incoming> report = poll_report()) {
      Event event{run_time(looked), {}};
      if (auto* batch = std::get_if<PrefillReported>(&*report)) event.what = std::move(*batch);
      if (auto* kv = std::get_if<KvArrived>(&*report)) event.what = *kv;
      if (auto* iteration = std::get_if<DecodeReported>(&*report)) event.what = std::move(*iteration);
      return event;
    }
    give_up_if_overdue(looked);
    spin.turn();
  }
}

void WallFleet::perform(const Command& command, RunTime time) { send(wire_.encode(command, time)); }

WorkerStatistics WallFleet::stop() {
  expect(quiet(), "a fleet is stopped while something is under way");
  // No keep-alives from here on: a worker that has its order to stop waits for no other, and would not take it.
  send(wire_.encode_for_all(StopOrder{}, run_time(clock_())));
  WorkerStatistics sum;
  SpinWait spin(Idle::sleep);
  while (!liveness_.quiet()) {
    const WallTime looked = clock_();
    std::optional<FleetWire::Incoming> report = poll_report();
    if (!report) {
      give_up_if_overdue(looked);
      spin.turn();
      continue;
    }
    const WorkerStatistics& counts = std::get<Stopped>(*report).statistics;
    sum.lookups += counts.lookups;
    sum.hits += counts.hits;
    sum.stored_blocks += counts.stored_blocks;
    sum.dropped_blocks += counts.dropped_blocks;
    for (const auto& [reason, count] : counts.miss_reasons) sum.miss_reasons[reason] += count;
  }
  port_.flush(deadline_s_);
  return sum;
}

std::optional<FleetWire::Incoming> WallFleet::poll_report() {
  const std::optional<Message> message = port_.poll();
  if (!message) return std::nullopt;
  FleetWire::Incoming report = wire_.decode(message->source, message->bytes).what;
  // Only what was asked for is taken: before the end no last report, after it nothing else.
  liveness_.reported(message->source, FleetWire::owed_as(report));
  return report;
}

void WallFleet::send(std::vector<Outgoing> messages) {
  for (Outgoing& message : messages) {
    port_.send(message.rank, static_cast<int>(message.kind), std::move(message.bytes));
    if (message.owes) liveness_.owe(message.rank, *message.owes, clock_().value);
  }
}

void WallFleet::give_up_if_overdue(WallTime looked) const {
  const std::optional<Liveness::Overdue> overdue = liveness_.overdue(looked.value);
  if (!overdue) return;
  const Part part = part_of(config_, overdue->rank);
  throw TimeoutError(fmt::format("rank 0 (coordinator): rank {} ({} instance {}, die {}) did not report {} within {} s",
                                 overdue->rank, to_string(part.role), part.instance, part.die,
                                 to_string(overdue->report), deadline_s_));
}

}  // namespace supernode::serving
