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
    if (message.owes && !abandoned_.contains(message.rank)) liveness_.owe(message.rank, *message.owes, clock_().value);
  }
}

void FleetLink::send(const Command& command, RunTime stamp) {
  if (const auto* lost = std::get_if<AbandonInstance>(&command)) abandon(lost->instance);
  if (const auto* drop = std::get_if<DropState>(&command); drop && drop->kv == Remainder::lost)
    for (std::size_t die = 0; die < drop->by_die.size(); ++die)
      for (const RequestId request : drop->by_die[die])
        liveness_.forgive(decode_rank(config_, drop->instance.index, static_cast<int>(die)),
                          {MessageKind::kv_arrived, request});
  send(wire_.encode(command, stamp));
}

void FleetLink::abandon(InstanceId instance) {
  const bool decodes = instance.stage == emulation::Stage::decode;
  for (int die = 0; die < (decodes ? config_.decode_dies : config_.prefill_dies); ++die) {
    const int rank = decodes ? decode_rank(config_, instance.index, die) : prefill_rank(config_, instance.index, die);
    liveness_.forget(rank);
    abandoned_.insert(rank);
  }
}

std::optional<Stamped<FleetWire::Incoming>> FleetLink::poll() {
  while (std::optional<Message> message = port_.poll()) {
    if (abandoned_.contains(message->source)) continue;
    if (is_step_piece(message->bytes)) {
      steps_.take(message->source, message->bytes);
      continue;
    }
    Stamped<FleetWire::Incoming> report = wire_.decode(message->source, message->bytes);
    // Only what was asked for is taken: before the end no last report, after it nothing else.
    if (liveness_.reported(message->source, FleetWire::owed_as(report.what), clock_().value)) return report;
  }
  return std::nullopt;
}

void FleetLink::keep_alive(WallTime looked, RunTime stamp) {
  if (liveness_.keep_alive_due(looked.value)) send(wire_.encode_for_all(KeepAlive{}, stamp));
}

void FleetLink::give_up_if_overdue(WallTime looked) const {
  if (const std::optional<Overdue> late = overdue(looked)) throw TimeoutError(late->why);
}

std::optional<Overdue> FleetLink::overdue(WallTime looked) const {
  const std::optional<Liveness::Overdue> overdue = liveness_.overdue(looked.value);
  if (!overdue) return std::nullopt;
  const Part part = part_of(config_, overdue->rank);
  // Dies that step together wait for one another, so the one that is named need not be the one that stopped.
  const std::string others =
      overdue->others.empty() ? "" : fmt::format("; nor did rank {}", fmt::join(overdue->others, ", rank "));
  Overdue late;
  late.instance = {part.role == Role::decode ? emulation::Stage::decode : emulation::Stage::prefill, part.instance};
  if (overdue->report.kind == MessageKind::kv_arrived) late.kv = overdue->report.request;
  late.heard_since = overdue->heard_since;
  late.why = fmt::format("rank 0 (coordinator): rank {} ({} instance {}, die {}) did not report {} within {} s{}",
                         overdue->rank, to_string(part.role), part.instance, part.die, to_string(overdue->report),
                         deadline_s_, others);
  return late;
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
  // A rank that is lost may never take what was sent to it.
  if (abandoned_.empty()) port_.flush(deadline_s_);
  // In the order of ranks, whoever was first: the sum of seconds is then the same in each run.
  WorkerStatistics sum;
  for (const auto& [rank, counts] : by_rank) sum += counts;
  return sum;
}

}  // namespace supernode::serving
