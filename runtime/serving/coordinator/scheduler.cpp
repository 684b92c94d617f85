#include "runtime/serving/coordinator/scheduler.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"

namespace supernode::serving {

Scheduler::Scheduler(const ServingConfig& config, const std::vector<Request>& requests, int max_concurrency)
    : config_(config),
      requests_(requests),
      max_concurrency_(max_concurrency),
      prefill_(static_cast<std::size_t>(config.prefill_instances)),
      decode_(static_cast<std::size_t>(config.decode_instances)),
      placement_(requests.size()),
      records_(requests.size()) {
  for (DecodeInstance& instance : decode_)
    instance.dies.assign(static_cast<std::size_t>(config.decode_dies),
                         DecodeDie{config.decode_kv_tokens, config.max_decode_batch, {}});
}

std::vector<Command> Scheduler::handle(const Event& event) {
  std::vector<Command> commands;
  std::visit([&](const auto& what) { on(what, event.time, commands); }, event.what);
  return commands;
}

std::int64_t Scheduler::kv_tokens(std::size_t request) const {
  return static_cast<std::int64_t>(requests_[request].prompt.size()) + requests_[request].output_tokens;
}

void Scheduler::on(const Arrived& event, Nanoseconds now, std::vector<Command>& commands) {
  records_[event.request].arrived = now;
  queue_.push_back(event.request);
  start_prefills(now, commands);
}

void Scheduler::on(const PrefillReported& event, Nanoseconds now, std::vector<Command>& commands) {
  PrefillInstance& instance = prefill_[static_cast<std::size_t>(event.die.instance)];
  expect(instance.reports_missing > 0, "a prefill die reported without a batch");
  --instance.reports_missing;
  for (const PrefillResult& result : event.results) {
    RequestRecord& record = records_[result.request];
    record.first_token = now;
    record.pool = result.pool;
    record.prefill_exchange = result.exchange;
    record.hit_tokens = result.hit_tokens;
    record.computed_tokens = result.computed_tokens;
    record.tokens.push_back(result.first_token);
    record.token_times.push_back(now);
    const Placement& place = placement_[result.request];
    if (requests_[result.request].output_tokens == 1) {
      record.decode_joined = now;
      finish(result.request, now);
    } else {
      commands.push_back(FetchKv{result.request, place.prefill, place.decode, result.first_token});
    }
  }
  start_prefills(now, commands);
}

void Scheduler::on(const KvArrived& event, Nanoseconds now, std::vector<Command>& commands) {
  DecodeInstance& instance = decode_[static_cast<std::size_t>(event.die.instance)];
  instance.dies[static_cast<std::size_t>(event.die.die)].ready.push_back(event.request);
  if (instance.reports_missing == 0) start_decode(event.die.instance, now, commands);
}

void Scheduler::on(const DecodeReported& event, Nanoseconds now, std::vector<Command>& commands) {
  DecodeInstance& instance = decode_[static_cast<std::size_t>(event.die.instance)];
  expect(instance.reports_missing > 0, "a decode die reported without an iteration");
  instance.slowest_exchange = std::max(instance.slowest_exchange, event.exchange);
  for (const DecodeReported::Token& token : event.tokens) {
    records_[token.request].tokens.push_back(token.token);
    records_[token.request].token_times.push_back(now);
  }
  if (--instance.reports_missing > 0) return;

  // The iteration is over for the whole instance: its time, and its exchange, count for every request in it.
  instance.last_iteration = now - instance.iteration_started;
  std::vector<std::size_t> running;
  for (const std::size_t request : instance.running) {
    records_[request].decode_exchange += instance.slowest_exchange;
    if (records_[request].tokens.size() >= static_cast<std::size_t>(requests_[request].output_tokens)) {
      // A token counts from when the coordinator had it; the request ends with the iteration that gave its last one.
      records_[request].token_times.back() = now;
      finish(request, now);
    } else {
      running.push_back(request);
    }
  }
  instance.running = std::move(running);
  start_prefills(now, commands);
  start_decode(event.die.instance, now, commands);
}

std::optional<DieId> Scheduler::find_room(std::size_t request) const {
  std::optional<DieId> best;
  std::int64_t most = kv_tokens(request) - 1;
  for (std::size_t i = 0; i < decode_.size(); ++i) {
    for (std::size_t d = 0; d < decode_[i].dies.size(); ++d) {
      const DecodeDie& die = decode_[i].dies[d];
      if (die.free_slots == 0 || die.free_kv_tokens <= most) continue;
      most = die.free_kv_tokens;
      best = DieId{static_cast<int>(i), static_cast<int>(d)};
    }
  }
  return best;
}

void Scheduler::start_prefills(Nanoseconds now, std::vector<Command>& commands) {
  for (std::size_t i = 0; i < prefill_.size() && !queue_.empty(); ++i) {
    if (prefill_[i].reports_missing > 0) continue;
    StartPrefill batch;
    batch.instance = static_cast<int>(i);
    batch.by_die.resize(static_cast<std::size_t>(config_.prefill_dies));
    std::vector<std::int64_t> load(batch.by_die.size(), 0);
    std::int64_t total = 0;
    while (!queue_.empty()) {
      const std::size_t request = queue_.front();
      const auto tokens = static_cast<std::int64_t>(requests_[request].prompt.size());
      if (total > 0 && total + tokens > config_.max_prefill_tokens) break;
      if (max_concurrency_ > 0 && in_flight_ >= max_concurrency_) break;
      const std::optional<DieId> room = find_room(request);
      if (!room) break;
      queue_.pop_front();
      ++in_flight_;
      DecodeDie& decode = decode_[static_cast<std::size_t>(room->instance)].dies[static_cast<std::size_t>(room->die)];
      decode.free_kv_tokens -= kv_tokens(request);
      --decode.free_slots;
      const auto die = static_cast<std::size_t>(std::min_element(load.begin(), load.end()) - load.begin());
      load[die] += tokens;
      total += tokens;
      batch.by_die[die].push_back({request, *room});
      placement_[request] = {DieId{batch.instance, static_cast<int>(die)}, *room};
      records_[request].prefill_started = now;
    }
    if (total == 0) return;  // the head of the queue must wait; so must all behind it
    prefill_[i].reports_missing = config_.prefill_dies;
    commands.push_back(std::move(batch));
  }
}

void Scheduler::start_decode(int index, Nanoseconds now, std::vector<Command>& commands) {
  DecodeInstance& instance = decode_[static_cast<std::size_t>(index)];
  const bool too_slow = config_.tpot_objective_ms > 0 && !instance.running.empty() &&
                        static_cast<double>(instance.last_iteration) > config_.tpot_objective_ms * 1e6;
  StartDecode command;
  command.instance = index;
  command.joins_by_die.resize(instance.dies.size());
  if (!too_slow) {
    for (std::size_t d = 0; d < instance.dies.size(); ++d) {
      DecodeDie& die = instance.dies[d];
      for (const std::size_t request : die.ready) {
        records_[request].decode_joined = now;
        instance.running.push_back(request);
      }
      command.joins_by_die[d] = std::move(die.ready);
      die.ready.clear();
    }
  }
  if (instance.running.empty()) return;
  instance.reports_missing = config_.decode_dies;
  instance.iteration_started = now;
  instance.slowest_exchange = 0;
  commands.push_back(std::move(command));
}

void Scheduler::finish(std::size_t request, Nanoseconds now) {
  RequestRecord& record = records_[request];
  expect(!record.done, "a request ended twice");
  record.finished = now;
  record.done = true;
  ++finished_;
  --in_flight_;
  const DieId place = placement_[request].decode;
  DecodeDie& die = decode_[static_cast<std::size_t>(place.instance)].dies[static_cast<std::size_t>(place.die)];
  die.free_kv_tokens += kv_tokens(request);
  ++die.free_slots;
}

}  // namespace supernode::serving
