#include "runtime/serving/coordinator/scheduler.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/serving/coordinator/prefill_steps.hpp"

namespace supernode::serving {

Scheduler::Scheduler(const ServingConfig& config, TokenSink& sink, int max_concurrency)
    : config_(config), sink_(sink), admission_(max_concurrency), fleet_(config) {
  for (int i = 0; i < config.decode_instances; ++i) {
    const std::vector<std::vector<RequestId>> none(static_cast<std::size_t>(config.decode_dies));
    decode_.push_back({.running = none, .ready = none, .tokens = {}, .limit = BatchLimit(config.tpot_objective_ms)});
    fleet_.held_back[static_cast<std::size_t>(i)] =
        config.max_decode_batch - decode_.back().limit.limit(config.max_decode_batch);
  }
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

// ---- arrivals ----

void Scheduler::on(const Arrived& event, RunTime now, std::vector<Command>& commands) {
  const RequestId id = event.request->id;
  const auto [entry, fresh] = active_.try_emplace(id, Active{event.request, {}, Stage::queued, {}, {}});
  expect(fresh, "two requests with one id");
  entry->second.record.arrived = now;
  if (Admission::kv_tokens(*event.request) > config_.decode_kv_tokens) {
    // No die will ever have room for it, and nothing overtakes it: in the queue it would stop the run.
    end(entry->second,
        {EndReason::failed, fmt::format("it needs room for {} tokens of KV, a decode die has {}",
                                        Admission::kv_tokens(*event.request), config_.decode_kv_tokens)},
        now);
    active_.erase(entry);
    return;
  }
  queue_.push_back(id);
  start_prefills(now, commands);
  if (event.request->placed_tokens > 0)
    for (int i = 0; i < config_.decode_instances; ++i)
      if (decode_instance(i).reports_missing == 0) start_decode(i, now, commands);
  if (config_.max_queue == 0 || queue_.size() <= static_cast<std::size_t>(config_.max_queue)) return;
  // Nothing overtakes in the queue, so the one that is too many is the last one.
  queue_.pop_back();
  end(active_.at(id), {EndReason::refused, fmt::format("{} requests waited already", config_.max_queue)}, now);
  active_.erase(id);
}

// ---- prefill ----

void Scheduler::on(const PrefillReported& event, RunTime now, std::vector<Command>& commands) {
  PrefillInstanceState& instance = fleet_.prefill_of(event.die);
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
    instance.last_step = now - instance.started;
    ++instance.steps;
    ++changes_;
  }
  start_prefills(now, commands);
}

void Scheduler::take_result(const PrefillResult& result, DieId die, RunTime now, std::vector<Command>& commands) {
  Active& active = find(result.request, Stage::prefilling, "a prefill result");
  PrefillInstanceState& instance = fleet_.prefill_of(die);
  const auto prompt = instance.find(result.request);
  if (active.prefill != die || prompt == instance.prompts.end() || prompt->in_step == 0)
    throw EnvironmentError(fmt::format("a prefill result for request {} from another die", result.request));
  const bool first = prompt->done == 0;
  // A piece is as long as was ordered, or ends the prompt; only the first one may find something in the pool.
  if (result.hit_tokens < 0 || (result.hit_tokens > 0 && !first) ||
      result.computed_tokens != std::min(prompt->in_step, prompt->left() - result.hit_tokens))
    throw EnvironmentError(fmt::format("request {} of {} prompt tokens: {} loaded and {} computed behind {}",
                                       result.request, prompt->tokens, result.hit_tokens, result.computed_tokens,
                                       prompt->done));
  prompt->done += result.hit_tokens + result.computed_tokens;
  prompt->in_step = 0;
  const bool whole = prompt->left() == 0;
  if (!active.ended) {
    RequestRecord& record = active.record;
    record.pool += result.pool;
    record.prefill_exchange += result.exchange;
    record.hit_tokens += result.hit_tokens;
    record.computed_tokens += result.computed_tokens;
  }
  if (whole) {
    instance.prompts.erase(prompt);
    end_prompt(active, result.first_token, now, commands);
  } else if (active.ended) {
    drop_prompt(active, commands);
  }
}

/// Its prompt has been computed, and its prefill die has nothing of it any more.
void Scheduler::end_prompt(Active& active, SampledToken token, RunTime now, std::vector<Command>& commands) {
  const RequestId id = active.request->id;
  if (!active.ended) {
    active.record.first_token = active.record.decode_joined = now;
    if (token)
      add_token(active, *token, now);
    else
      end(active, {EndReason::failed, "the logits of its first token are not finite"}, now);
  }
  if (active.request->max_output == 1) {
    release(id);
    return;
  }
  commands.push_back(ExpectKv{active.request, active.decode, active.request->prompt_tokens(), token.value_or(0)});
  active.stage = Stage::handed_over;
  if (active.ended) commands.push_back(drop_one(emulation::Stage::decode, active.decode, config_.decode_dies, id));
}

/// Between two pieces of a request that has ended: neither its prefill die nor its decode die needs what there is.
void Scheduler::drop_prompt(Active& active, std::vector<Command>& commands) {
  const RequestId id = active.request->id;
  PrefillInstanceState& instance = fleet_.prefill_of(active.prefill);
  const auto prompt = instance.find(id);
  const int sent = prompt->done;
  instance.prompts.erase(prompt);
  commands.push_back(drop_one(emulation::Stage::prefill, active.prefill, config_.prefill_dies, id));
  if (active.request->max_output == 1) {
    release(id);
    return;
  }
  commands.push_back(ExpectKv{active.request, active.decode, sent, 0});
  commands.push_back(drop_one(emulation::Stage::decode, active.decode, config_.decode_dies, id));
  active.stage = Stage::handed_over;
}

void Scheduler::on(const KvArrived& event, RunTime now, std::vector<Command>& commands) {
  Active& active = find(event.request, Stage::handed_over, "KV");
  if (active.decode != event.die)
    throw EnvironmentError(fmt::format("KV of request {} came to another die", event.request));
  if (active.ended) {
    release(event.request);
    start_prefills(now, commands);
    return;
  }
  active.stage = Stage::ready;
  DecodeInstance& instance = decode_instance(event.die.instance);
  instance.ready[static_cast<std::size_t>(event.die.die)].push_back(event.request);
  if (instance.reports_missing == 0) start_decode(event.die.instance, now, commands);
}

void Scheduler::start_prefills(RunTime now, std::vector<Command>& commands) {
  const bool goes_on = std::any_of(fleet_.prefill.begin(), fleet_.prefill.end(),
                                   [](const PrefillInstanceState& one) { return one.idle() && !one.prompts.empty(); });
  if (queue_.empty() && !goes_on) return;
  PrefillSteps steps(config_, fleet_);
  // If the head of the queue must wait, for an instance or for room to decode, so must all behind it.
  while (!queue_.empty()) {
    Active& active = active_.at(queue_.front());
    if (active.request->placed_tokens > 0) {
      if (!start_placed(active, now, commands)) break;
      continue;
    }
    const std::optional<DieId> die = steps.place(active.request->prompt_tokens());
    if (!die) break;
    const std::optional<DieId> room = admission_.place(*active.request, die->die, fleet_);
    if (!room) break;
    leave_queue(active, *room, now);
    active.stage = Stage::prefilling;
    active.prefill = *die;
    steps.add(active.request, *die, *room);
    if (active.request->max_output > 1) commands.push_back(ReserveKv{active.request, *die, *room});
  }
  for (StartStep& step : steps.take()) {
    fleet_.prefill[static_cast<std::size_t>(step.instance.index)].started = now;
    commands.push_back(std::move(step));
  }
}

/// A request whose KV lies on its decode die: no prefill, and no hand-over but for the notice.
bool Scheduler::start_placed(Active& active, RunTime now, std::vector<Command>& commands) {
  const std::optional<DieId> room = admission_.place(*active.request, std::nullopt, fleet_);
  if (!room) return false;
  leave_queue(active, *room, now);
  const RequestId id = active.request->id;
  RequestRecord& record = active.record;
  record.first_token = record.decode_joined = now;
  record.hit_tokens = active.request->placed_tokens;
  constexpr std::int32_t first_token = 0;  // whatever came before
  add_token(active, first_token, now);
  if (active.ended) {
    release(id);
    return true;
  }
  // Its die is told before its next iteration, so it may join that one.
  active.stage = Stage::ready;
  decode_instance(active.decode.instance).ready[static_cast<std::size_t>(active.decode.die)].push_back(id);
  commands.push_back(ReserveKv{active.request, {}, active.decode});
  commands.push_back(ExpectKv{active.request, active.decode, active.request->placed_tokens, first_token});
  return true;
}

// ---- decoding ----

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

  end_iteration(event.die.instance, now, commands);
  start_prefills(now, commands);
  start_decode(event.die.instance, now, commands);
}

/// Every running request got one token. @throws EnvironmentError naming one that did not, or got more.
void Scheduler::check_tokens(const DecodeInstance& instance) const {
  std::vector<RequestId> expected, given;
  for (const std::vector<RequestId>& die : instance.running) expected.insert(expected.end(), die.begin(), die.end());
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
void Scheduler::end_iteration(int index, RunTime now, std::vector<Command>& commands) {
  DecodeInstance& instance = decode_instance(index);
  check_tokens(instance);
  observe(index, now);
  DropState drop{{emulation::Stage::decode, index}, std::vector<std::vector<RequestId>>(instance.running.size())};
  for (const DecodeReported::Token& token : instance.tokens) {
    Active& active = active_.at(token.request);
    if (!active.ended) {
      active.record.decode_exchange += instance.slowest_exchange;
      const auto most = static_cast<std::size_t>(active.request->max_output);
      if (active.record.tokens.size() + 1 + token.further.size() > most)
        throw EnvironmentError(fmt::format("request {} got {} tokens and asked for {}", token.request,
                                           active.record.tokens.size() + 1 + token.further.size(), most));
      if (token.token) {
        add_token(active, *token.token, now);
        for (const std::int32_t further : token.further)
          if (!active.ended) add_token(active, further, now);
      } else {
        const std::size_t number = active.record.tokens.size() + 1;
        end(active, {EndReason::failed, fmt::format("the logits of token {} are not finite", number)}, now);
      }
    }
    if (!active.ended) continue;
    drop.by_die[static_cast<std::size_t>(active.decode.die)].push_back(token.request);
    release(token.request);
  }
  instance.tokens.clear();
  bool any = false;
  for (std::size_t die = 0; die < drop.by_die.size(); ++die) {
    if (drop.by_die[die].empty()) continue;
    any = true;
    std::erase_if(instance.running[die], [&](RequestId request) { return !active_.contains(request); });
  }
  if (any) commands.push_back(std::move(drop));
}

/// Learns from an iteration how many requests the instance may have.
void Scheduler::observe(int index, RunTime now) {
  DecodeInstance& instance = decode_instance(index);
  instance.last_iteration = now - instance.iteration_started;
  ++instance.iterations;
  ++changes_;
  std::size_t batch = 0, tokens = 0;
  for (const std::vector<RequestId>& die : instance.running) batch = std::max(batch, die.size());
  for (const DecodeReported::Token& token : instance.tokens) tokens += 1 + token.further.size();
  instance.last_batch = static_cast<int>(batch);
  instance.last_tokens = static_cast<double>(tokens) / static_cast<double>(instance.tokens.size());
  instance.limit.observe(instance.last_batch, to_ms(instance.last_iteration), instance.last_tokens);
  fleet_.held_back[static_cast<std::size_t>(index)] =
      config_.max_decode_batch - instance.limit.limit(config_.max_decode_batch);
}

void Scheduler::start_decode(int index, RunTime now, std::vector<Command>& commands) {
  DecodeInstance& instance = decode_instance(index);
  const auto limit = static_cast<std::size_t>(instance.limit.limit(config_.max_decode_batch));
  StartStep command{{emulation::Stage::decode, index}, std::vector<std::vector<Work>>(instance.ready.size())};
  bool any = false;
  for (std::size_t die = 0; die < instance.ready.size(); ++die) {
    std::vector<RequestId>&running = instance.running[die], &ready = instance.ready[die];
    const std::size_t joins = std::min(ready.size(), limit - std::min(limit, running.size()));
    for (std::size_t i = 0; i < joins; ++i) {
      Active& active = active_.at(ready[i]);
      active.stage = Stage::running;
      active.record.decode_joined = now;
      running.push_back(ready[i]);
    }
    ready.erase(ready.begin(), ready.begin() + static_cast<std::ptrdiff_t>(joins));
    any = any || !running.empty();
    for (const RequestId request : running) {
      const Active& active = active_.at(request);
      const int tokens = active.request->prompt_tokens() + static_cast<int>(active.record.tokens.size()) - 1;
      command.by_die[die].push_back({request, tokens, 1, {}});
    }
  }
  if (!any) return;
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
    shown = {0, 0, instance.steps, instance.last_step, 0, 0};
    for (const std::optional<std::size_t>& die : instance.missing_results)
      shown.requests += static_cast<int>(die.value_or(0));
  }
  for (std::size_t i = 0; i < decode_.size(); ++i) {
    const DecodeInstance& instance = decode_[i];
    LoadSnapshot::Instance& shown = seen.decode[i];
    shown = {0, 0, instance.iterations, instance.last_iteration, instance.last_batch, instance.last_tokens};
    for (const std::vector<RequestId>& die : instance.running) shown.requests += static_cast<int>(die.size());
    for (const DecodeDieState& die : fleet_.decode[i]) shown.kv_tokens += config_.decode_kv_tokens - die.free_kv_tokens;
  }
  return true;
}

// ---- ends ----

void Scheduler::fail_all(const std::string& why, RunTime now) {
  for (auto& [id, active] : active_)
    if (!active.ended) end(active, {EndReason::failed, why}, now);
  queue_.clear();
  active_.clear();
}

/// The request ends for whoever sent it. What is under way of it comes to its end; what is not is freed here.
void Scheduler::on(const Cancelled& event, RunTime now, std::vector<Command>& commands) {
  const auto found = active_.find(event.request);
  if (found == active_.end() || found->second.ended) return;  // it ended before
  Active& active = found->second;
  end(active, {EndReason::cancelled}, now);
  switch (active.stage) {
    case Stage::queued:
      std::erase(queue_, event.request);
      active_.erase(found);
      break;
    case Stage::prefilling: {
      PrefillInstanceState& instance = fleet_.prefill_of(active.prefill);
      if (instance.find(event.request)->in_step == 0) drop_prompt(active, commands);
      break;
    }
    case Stage::handed_over:
      commands.push_back(drop_one(emulation::Stage::decode, active.decode, config_.decode_dies, event.request));
      break;
    case Stage::ready:
      std::erase(decode_instance(active.decode.instance).ready[static_cast<std::size_t>(active.decode.die)],
                 event.request);
      commands.push_back(drop_one(emulation::Stage::decode, active.decode, config_.decode_dies, event.request));
      release(event.request);
      break;
    case Stage::running:
      break;
  }
  start_prefills(now, commands);
}

/// The request ends with the token when it was the last one wanted.
void Scheduler::add_token(Active& active, std::int32_t token, RunTime now) {
  const Request& request = *active.request;
  active.record.tokens.push_back(token);
  active.record.token_times.push_back(now);
  sink_.on_token(request.id, token, now);
  if (std::find(request.stop.begin(), request.stop.end(), token) != request.stop.end())
    end(active, {EndReason::stop}, now);
  else if (active.record.tokens.size() == static_cast<std::size_t>(request.max_output))
    end(active, {EndReason::length}, now);
}

/// It has room on a decode die from now on.
void Scheduler::leave_queue(Active& active, DieId decode, RunTime now) {
  queue_.pop_front();
  admission_.reserve(*active.request, decode, fleet_);
  active.decode = decode;
  active.record.prefill_started = now;
}

/// Hands the request to the sink. Its parts that were not reached have no length.
void Scheduler::end(Active& active, Ended ended, RunTime now) {
  RequestRecord& record = active.record;
  record.finished = now;
  if (active.stage == Stage::queued) record.prefill_started = now;
  if (active.stage == Stage::queued || (active.stage == Stage::prefilling && record.tokens.empty()))
    record.first_token = now;
  if (active.stage != Stage::running) record.decode_joined = now;
  sink_.on_end({active.request, std::move(record), std::move(ended)});
  active.ended = true;
}

/// Nothing of the request is anywhere any more.
void Scheduler::release(RequestId request) {
  const auto entry = active_.extract(request);
  admission_.release(*entry.mapped().request, entry.mapped().decode, fleet_);
}

}  // namespace supernode::serving
