#include "runtime/serving/wire/fleet_wire.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {
namespace {

Outgoing outgoing(int rank, const Order& order, RunTime stamp, std::optional<OwedReport> owes) {
  return {rank, kind_of(order), encode(order, stamp), owes};
}

int rank_of(const ServingConfig& config, InstanceId instance, int die) {
  return instance.stage == emulation::Stage::prefill ? prefill_rank(config, instance.index, die)
                                                     : decode_rank(config, instance.index, die);
}

int decode_rank_of(const ServingConfig& config, DieId die) { return decode_rank(config, die.instance, die.die); }

StepOrder::Item item_of(const Work& work, const ServingConfig& config) {
  StepOrder::Item item{work.request, work.first, work.count};
  if (!work.begins) return item;
  const Request& request = *work.begins->request;
  item.begins = {request.max_output,
                 decode_rank_of(config, work.begins->decode),
                 request.sampler,
                 request.prompt,
                 work.begins->granted_tokens,
                 work.begins->loads};
  return item;
}

void add(std::vector<Outgoing>& messages, const ServingConfig& config, const StartStep& start, RunTime stamp) {
  const MessageKind report =
      start.instance.stage == emulation::Stage::prefill ? MessageKind::prefill_reported : MessageKind::decode_reported;
  for (std::size_t die = 0; die < start.by_die.size(); ++die) {
    StepOrder order;
    order.items.reserve(start.by_die[die].size());
    for (const Work& work : start.by_die[die]) order.items.push_back(item_of(work, config));
    const RunTime begin = start.start_by_die.empty() ? stamp : start.start_by_die[die];
    messages.push_back(
        outgoing(rank_of(config, start.instance, static_cast<int>(die)), std::move(order), begin, OwedReport{report}));
  }
}

void add(std::vector<Outgoing>& messages, const ServingConfig& config, const ReserveKv& command, RunTime stamp) {
  const Request& request = *command.request;
  const int sender =
      request.placed_tokens > 0 ? -1 : prefill_rank(config, command.prefill.instance, command.prefill.die);
  const KvNotice notice{request.id, sender, request.prompt_tokens(), request.max_output, request.sampler};
  messages.push_back(outgoing(decode_rank_of(config, command.decode), notice, stamp, std::nullopt));
}

void add(std::vector<Outgoing>& messages, const ServingConfig& config, const ExpectKv& command, RunTime stamp) {
  const RequestId request = command.request->id;
  std::optional<OwedReport> owes;
  if (command.request->placed_tokens == 0) owes = OwedReport{MessageKind::kv_arrived, request};
  messages.push_back(outgoing(decode_rank_of(config, command.decode),
                              KvDue{request, command.tokens, command.first_token}, stamp, owes));
}

void add(std::vector<Outgoing>& messages, const ServingConfig& config, const DropState& command, RunTime stamp) {
  for (std::size_t die = 0; die < command.by_die.size(); ++die)
    if (!command.by_die[die].empty())
      messages.push_back(outgoing(rank_of(config, command.instance, static_cast<int>(die)),
                                  DropOrder{command.by_die[die]}, stamp, std::nullopt));
}

/// The report as an event of the die, if a worker of that role makes such reports.
std::optional<FleetWire::Incoming> to_event(const Part& part, int rank, CacheOrders cache, Report&& report) {
  const DieId die{part.instance, part.die};
  const bool prefill = part.role == Role::prefill, decode = part.role == Role::decode;
  if (auto* batch = std::get_if<PrefillReport>(&report); batch && prefill)
    return PrefillReported{die, std::move(batch->results), std::move(batch->misses)};
  if (const auto* kv = std::get_if<KvReport>(&report); kv && decode) return KvArrived{die, kv->request};
  if (auto* iteration = std::get_if<DecodeReport>(&report); iteration && decode)
    return DecodeReported{die, iteration->exchange, std::move(iteration->tokens)};
  if (auto* stopped = std::get_if<StoppedReport>(&report);
      stopped && (prefill || decode || cache == CacheOrders::coordinator))
    return Stopped{rank, std::move(stopped->statistics)};
  return std::nullopt;
}

}  // namespace

std::string to_string(const OwedReport& report) {
  switch (report.kind) {
    case MessageKind::prefill_reported:
      return "a prefill batch";
    case MessageKind::kv_arrived:
      return fmt::format("the KV of request {}", report.request);
    case MessageKind::decode_reported:
      return "a decode iteration";
    case MessageKind::stopped:
      return "what it counted";
    default:
      return std::string(name_of(report.kind));
  }
}

OwedReport FleetWire::owed_as(const Incoming& report) {
  constexpr MessageKind kinds[] = {MessageKind::prefill_reported, MessageKind::kv_arrived, MessageKind::decode_reported,
                                   MessageKind::stopped};
  static_assert(std::size(kinds) == std::variant_size_v<Incoming>);
  const auto* kv = std::get_if<KvArrived>(&report);
  return {kinds[report.index()], kv ? kv->request : 0};
}

std::vector<Outgoing> FleetWire::encode(const Command& command, RunTime stamp) const {
  std::vector<Outgoing> messages;
  std::visit([&](const auto& what) { add(messages, config_, what, stamp); }, command);
  return messages;
}

std::vector<Outgoing> FleetWire::encode_for_all(const Order& order, RunTime stamp) const {
  std::vector<Outgoing> messages;
  std::optional<OwedReport> owes;
  if (std::holds_alternative<StopOrder>(order)) owes = OwedReport{MessageKind::stopped};
  const int end = cache_ == CacheOrders::coordinator ? world_size(config_) : cache_rank(config_, 0);
  for (int rank = 1; rank < end; ++rank) messages.push_back(outgoing(rank, order, stamp, owes));
  return messages;
}

Stamped<FleetWire::Incoming> FleetWire::decode(int rank, std::span<const std::byte> message) const {
  const auto where = [&] { return fmt::format("rank 0 (coordinator): from rank {}: ", rank); };
  if (rank < 1 || rank >= world_size(config_)) throw EnvironmentError(where() + "no such rank in this deployment");
  try {
    Stamped<Report> report = decode_report(message);
    const MessageKind kind = kind_of(report.what);
    const Part part = part_of(config_, rank);
    if (std::optional<Incoming> event = to_event(part, rank, cache_, std::move(report.what)))
      return {report.stamp, std::move(*event)};
    throw EnvironmentError(fmt::format("message '{}' of a {} rank", name_of(kind), to_string(part.role)));
  } catch (const EnvironmentError& error) {
    throw EnvironmentError(where() + error.what());
  }
}

}  // namespace supernode::serving
