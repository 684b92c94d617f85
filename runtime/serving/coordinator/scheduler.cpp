#include "runtime/serving/coordinator/scheduler.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {

Scheduler::Scheduler(const ServingConfig& config, TokenSink& sink, int max_concurrency)
    : config_(config),
      sink_(sink),
      admission_(max_concurrency),
      fleet_(config),
      decode_(static_cast<std::size_t>(config.decode_instances)) {
  for (DecodeInstance& instance : decode_) instance.ready.resize(static_cast<std::size_t>(config.decode_dies));
}

std::vector<Command> Scheduler::handle(const Event& event) {
  std::vector<Command> commands;
  std::visit([&](const auto& what) { on(what, event.time, commands); }, event.what);
  if (!commands.empty() || std::holds_alternative<Arrived>(event.what)) ++changes_;
  return commands;
}

Scheduler::Active& Scheduler::find(RequestId request, Stage stage, const char* what) {
  const auto found = active_.find(request);
  if (found == active_.end())
    throw EnvironmentError(fmt::format("{} for request {}, which is not here", what, request));
  if (found->second.stage != stage)
    throw EnvironmentError(fmt::format("{} for request {}, which does not wait for it", what, request));
  return found->second;
}

// ---- events ----

void Scheduler::on(const Arrived& event, RunTime now, std::vector<Command>& commands) {
  const RequestId id = event.request->id;
  const auto [entry, fresh] = active_.try_emplace(id, Active{event.request, {}, Stage::queued, {}, {}});
  expect(fresh, "two requests with one id");
  RequestRecord& record = entry->second.record;
  record.arrived = now;
  if (Admission::kv_tokens(*event.request) > config_.decode_kv_tokens) {
    // No die will ever have room for it, and nothing overtakes it: in the queue it would stop the run.
    record.prefill_started = record.first_token = record.decode_joined = record.finished = now;
    Active refused = std::move(active_.extract(id).mapped());
    sink_.on_end({std::move(refused.request),
                  std::move(refused.record),
                  {EndReason::failed, fmt::format("it needs room for {} tokens of KV, a decode die has {}",
                                                  Admission::kv_tokens(*event.request), config_.decode_kv_tokens)}});
    return;
  }
  queue_.push_back(id);
  start_prefills(now, commands);
  if (event.request->placed_tokens > 0)
    for (int i = 0; i < config_.decode_instances; ++i)
      if (decode_instance(i).reports_missing == 0) start_decode(i, now, commands);
}

void Scheduler::on(const PrefillReported& event, RunTime now, std::vector<Command>& commands) {
  PrefillInstanceState& instance = fleet_.prefill.at(static_cast<std::size_t>(event.die.instance));
  const std::optional<std::size_t> missing =
      std::exchange(instance.missing_results.at(static_cast<std::size_t>(event.die.die)), std::nullopt);
  if (!missing)
    throw EnvironmentError(
        fmt::format("prefill instance {}, die {} reported without a batch", event.die.instance, event.die.die));
  // As many results as requests, and below each of another request of this die: so none is left out.
  if (event.results.size() != *missing)
    throw EnvironmentError(fmt::format("prefill instance {}, die {} reported {} requests of {}", event.die.instance,
                                       event.die.die, event.results.size(), *missing));
  for (const PrefillResult& result : event.results) take_result(result, event.die, now, commands);
  if (instance.idle()) {
    instance.last_batch = now - instance.started;
    ++instance.batches;
    ++changes_;
  }
  start_prefills(now, commands);
}

void Scheduler::take_result(const PrefillResult& result, DieId die, RunTime now, std::vector<Command>& commands) {
  Active& active = find(result.request, Stage::prefilling, "a prefill result");
  if (active.prefill != die)
    throw EnvironmentError(fmt::format("a prefill result for request {} from another die", result.request));
  if (result.hit_tokens < 0 || result.computed_tokens < 1 ||
      result.hit_tokens + result.computed_tokens != active.request->prompt_tokens())
    throw EnvironmentError(fmt::format("request {} of {} prompt tokens: {} loaded and {} computed", result.request,
                                       active.request->prompt_tokens(), result.hit_tokens, result.computed_tokens));
  RequestRecord& record = active.record;
  record.first_token = record.decode_joined = now;
  record.pool = result.pool;
  record.prefill_exchange = result.exchange;
  record.hit_tokens = result.hit_tokens;
  record.computed_tokens = result.computed_tokens;
  if (!result.first_token) {
    end(result.request, {EndReason::failed, "the logits of its first token are not finite"}, now);
    return;
  }
  add_token(active, *result.first_token, now);
  if (active.request->max_output == 1) {
    end(result.request, {EndReason::length}, now);
    return;
  }
  active.stage = Stage::handed_over;
  commands.push_back(ExpectKv{active.request, active.prefill, active.decode, *result.first_token});
}

void Scheduler::on(const KvArrived& event, RunTime now, std::vector<Command>& commands) {
  Active& active = find(event.request, Stage::handed_over, "KV");
  if (active.decode != event.die)
    throw EnvironmentError(fmt::format("KV of request {} came to another die", event.request));
  active.stage = Stage::ready;
  DecodeInstance& instance = decode_instance(event.die.instance);
  instance.ready[static_cast<std::size_t>(event.die.die)].push_back(event.request);
  if (instance.reports_missing == 0) start_decode(event.die.instance, now, commands);
}

void Scheduler::on(const DecodeReported& event, RunTime now, std::vector<Command>& commands) {
  DecodeInstance& instance = decode_instance(event.die.instance);
  if (instance.reports_missing == 0)
    throw EnvironmentError(
        fmt::format("decode instance {}, die {} reported without an iteration", event.die.instance, event.die.die));
  instance.slowest_exchange = std::max(instance.slowest_exchange, event.exchange);
  for (const DecodeReported::Token& token : event.tokens)
    if (find(token.request, Stage::running, "a token").decode != event.die)
      throw EnvironmentError(fmt::format("a token for request {} from another die", token.request));
  instance.tokens.insert(instance.tokens.end(), event.tokens.begin(), event.tokens.end());
  if (--instance.reports_missing > 0) return;

  end_iteration(instance, now);
  start_prefills(now, commands);
  start_decode(event.die.instance, now, commands);
}

/// Every running request got one token. @throws EnvironmentError naming one that did not, or got more.
void Scheduler::check_tokens(const DecodeInstance& instance) const {
  std::vector<RequestId> expected = instance.running, given;
  for (const DecodeReported::Token& token : instance.tokens) given.push_back(token.request);
  std::sort(expected.begin(), expected.end());
  std::sort(given.begin(), given.end());
  const auto [one, other] = std::mismatch(expected.begin(), expected.end(), given.begin(), given.end());
  if (one == expected.end() && other == given.end()) return;
  const bool missing = one != expected.end() && (other == given.end() || *one < *other);
  throw EnvironmentError(fmt::format("request {} got {} in an iteration", missing ? *one : *other,
                                     missing ? "no token" : "more than one token"));
}

/// The dies step together, so an iteration's time, its exchange and its tokens' times are the same for all that were in
/// it: a token counts from the end of its iteration.
void Scheduler::end_iteration(DecodeInstance& instance, RunTime now) {
  check_tokens(instance);
  instance.last_iteration = now - instance.iteration_started;
  ++instance.iterations;
  ++changes_;
  for (const RequestId request : instance.running)
    active_.at(request).record.decode_exchange += instance.slowest_exchange;
  for (const DecodeReported::Token& token : instance.tokens) {
    Active& active = active_.at(token.request);
    if (token.token) {
      add_token(active, *token.token, now);
      for (const std::int32_t further : token.further) add_token(active, further, now);
      const auto most = static_cast<std::size_t>(active.request->max_output);
      if (active.record.tokens.size() > most)
        throw EnvironmentError(
            fmt::format("request {} got {} tokens and asked for {}", token.request, active.record.tokens.size(), most));
      if (active.record.tokens.size() == most) end(token.request, {EndReason::length}, now);
    } else {
      end(token.request,
          {EndReason::failed, fmt::format("the logits of token {} are not finite", active.record.tokens.size() + 1)},
          now);
    }
  }
  instance.tokens.clear();
  std::erase_if(instance.running, [&](RequestId request) { return !active_.contains(request); });
}

// ---- policy ----

/// A batch that an idle prefill instance will get.
struct Scheduler::FormingBatch {
  StartPrefill command;
  std::vector<std::int64_t> tokens_by_die;
  std::int64_t tokens = 0;

  bool takes(std::int64_t more, const ServingConfig& config) const {
    return tokens == 0 || tokens + more <= config.max_prefill_tokens;
  }
};

void Scheduler::start_prefills(RunTime now, std::vector<Command>& commands) {
  std::vector<FormingBatch> forming;
  for (std::size_t i = 0; i < fleet_.prefill.size() && !queue_.empty(); ++i) {
    if (!fleet_.prefill[i].idle()) continue;
    const auto dies = static_cast<std::size_t>(config_.prefill_dies);
    FormingBatch& batch = forming.emplace_back();
    batch.command.instance = static_cast<int>(i);
    batch.command.by_die.resize(dies);
    batch.tokens_by_die.resize(dies);
  }
  while (!queue_.empty()) {
    Active& active = active_.at(queue_.front());
    if (active.request->placed_tokens > 0) {
      if (!start_placed(active, now, commands)) break;
      continue;
    }
    const auto tokens = static_cast<std::int64_t>(active.request->prompt.size());
    FormingBatch* least = nullptr;
    for (FormingBatch& batch : forming)
      if (batch.takes(tokens, config_) && (!least || batch.tokens < least->tokens)) least = &batch;
    // The head of the queue must wait, for an instance or for room to decode; so must all behind it.
    if (!least) break;
    const std::optional<DieId> room = admission_.place(*active.request, fleet_);
    if (!room) break;
    queue_.pop_front();
    admission_.reserve(*active.request, *room, fleet_);
    const auto die = std::min_element(least->tokens_by_die.begin(), least->tokens_by_die.end());
    const auto index = static_cast<std::size_t>(die - least->tokens_by_die.begin());
    *die += tokens;
    least->tokens += tokens;
    least->command.by_die[index].push_back({active.request, *room});
    active.stage = Stage::prefilling;
    active.prefill = {least->command.instance, static_cast<int>(index)};
    active.decode = *room;
    active.record.prefill_started = now;
  }
  for (FormingBatch& batch : forming) {
    if (batch.tokens == 0) continue;
    // All dies of the instance step together, those without a request too.
    PrefillInstanceState& instance = fleet_.prefill[static_cast<std::size_t>(batch.command.instance)];
    instance.started = now;
    for (std::size_t die = 0; die < batch.command.by_die.size(); ++die)
      instance.missing_results[die] = batch.command.by_die[die].size();
    commands.push_back(std::move(batch.command));
  }
}

/// A request whose KV lies on its decode die: no prefill, and no hand-over but for the notice.
bool Scheduler::start_placed(Active& active, RunTime now, std::vector<Command>& commands) {
  const std::optional<DieId> room = admission_.place(*active.request, fleet_);
  if (!room) return false;
  queue_.pop_front();
  admission_.reserve(*active.request, *room, fleet_);
  active.decode = *room;
  RequestRecord& record = active.record;
  record.prefill_started = record.first_token = record.decode_joined = now;
  record.hit_tokens = active.request->placed_tokens;
  constexpr std::int32_t first_token = 0;  // whatever came before
  add_token(active, first_token, now);
  if (active.request->max_output == 1) {
    end(active.request->id, {EndReason::length}, now);
    return true;
  }
  // Its die is told before its next iteration, so it may join that one.
  active.stage = Stage::ready;
  decode_instance(active.decode.instance)
      .ready[static_cast<std::size_t>(active.decode.die)]
      .push_back(active.request->id);
  commands.push_back(ExpectKv{active.request, {}, active.decode, first_token});
  return true;
}

void Scheduler::start_decode(int index, RunTime now, std::vector<Command>& commands) {
  DecodeInstance& instance = decode_instance(index);
  const bool too_slow = config_.tpot_objective_ms > 0 && !instance.running.empty() &&
                        to_ms(instance.last_iteration) > config_.tpot_objective_ms;
  StartDecode command{index, std::vector<std::vector<RequestId>>(instance.ready.size())};
  if (!too_slow) {
    for (std::size_t die = 0; die < instance.ready.size(); ++die) {
      for (const RequestId request : instance.ready[die]) {
        Active& active = active_.at(request);
        active.stage = Stage::running;
        active.record.decode_joined = now;
        instance.running.push_back(request);
      }
      command.joins_by_die[die] = std::exchange(instance.ready[die], {});
    }
  }
  if (instance.running.empty()) return;
  instance.reports_missing = config_.decode_dies;
  instance.iteration_started = now;
  instance.slowest_exchange = {};
  commands.push_back(std::move(command));
}

// ---- what others see ----

bool Scheduler::update(LoadSnapshot& seen) const {
  if (seen.changes == changes_) return false;
  seen.changes = changes_;
  seen.queued = queue_.size();
  seen.prefill.resize(fleet_.prefill.size());
  seen.decode.resize(decode_.size());
  for (std::size_t i = 0; i < fleet_.prefill.size(); ++i) {
    const PrefillInstanceState& instance = fleet_.prefill[i];
    LoadSnapshot::Instance& shown = seen.prefill[i];
    shown = {0, 0, instance.batches, instance.last_batch};
    for (const std::optional<std::size_t>& die : instance.missing_results)
      shown.requests += static_cast<int>(die.value_or(0));
  }
  for (std::size_t i = 0; i < decode_.size(); ++i) {
    const DecodeInstance& instance = decode_[i];
    LoadSnapshot::Instance& shown = seen.decode[i];
    shown = {static_cast<int>(instance.running.size()), 0, instance.iterations, instance.last_iteration};
    for (const DecodeDieState& die : fleet_.decode[i]) shown.kv_tokens += config_.decode_kv_tokens - die.free_kv_tokens;
  }
  return true;
}

// ---- ends ----

void Scheduler::add_token(Active& active, std::int32_t token, RunTime now) {
  active.record.tokens.push_back(token);
  active.record.token_times.push_back(now);
  sink_.on_token(active.request->id, token, now);
}

void Scheduler::fail_all(const std::string& why, RunTime now) {
  queue_.clear();
  for (auto& [id, active] : std::exchange(active_, {})) {
    active.record.finished = now;
    sink_.on_end({std::move(active.request), std::move(active.record), {EndReason::failed, why}});
  }
}

void Scheduler::end(RequestId request, Ended ended, RunTime now) {
  Active active = std::move(active_.extract(request).mapped());
  active.record.finished = now;
  admission_.release(*active.request, active.decode, fleet_);
  sink_.on_end({std::move(active.request), std::move(active.record), std::move(ended)});
}

}  // namespace supernode::serving
