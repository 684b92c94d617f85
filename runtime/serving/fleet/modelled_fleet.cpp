#include "runtime/serving/fleet/modelled_fleet.hpp"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "moe/sequence_chunk.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {
namespace {

/// The order of reports of one time.
constexpr int kPrefill = 0, kKv = 1, kDecode = 2;

}  // namespace

ModelledFleet::ModelledFleet(const ServingConfig& config, RequestSource& source, MessagePort& port, double deadline_s,
                             const ModelledFleetOptions& options, WallTime (*clock)())
    : config_(config),
      source_(source),
      link_(config, port, deadline_s, clock, options.cache, options.steps),
      options_(options),
      root_(pool::chain_root("default", options.model_name, config.context_block_tokens)),
      ports_(options.machine, options.network,
             config.prefill_instances * config.prefill_dies + config.decode_instances * config.decode_dies,
             config.cache_ranks) {
  if (options_.pool) pool_.emplace(*options_.pool);
}

int ModelledFleet::die_index(Role role, DieId die) const {
  return role == Role::prefill
             ? die.instance * config_.prefill_dies + die.die
             : config_.prefill_instances * config_.prefill_dies + die.instance * config_.decode_dies + die.die;
}

// ---- commands ----

void ModelledFleet::perform(const Command& command, RunTime now) {
  if (const auto* start = std::get_if<StartStep>(&command)) {
    if (start->instance.stage == emulation::Stage::decode) {
      begin(*start, now);
    } else {
      begin(grant(*start, now), now);
    }
    return;
  }
  const auto* kv = std::get_if<ExpectKv>(&command);
  if (kv && kv->request->placed_tokens == 0) {
    // The last piece may have come while the coordinator waited for something else.
    const auto sent = granted_.extract(kv->request->id);
    expect(static_cast<bool>(sent), "KV is expected of which nothing was sent");
    const RunTime arrives = std::max(now, sent.mapped().handed_over);
    coming_.emplace(kv->request->id, arrives);
    arrivals_.insert(arrives);
  }
  if (const auto* drop = std::get_if<DropState>(&command); drop && drop->instance.stage == emulation::Stage::prefill)
    for (const std::vector<RequestId>& die : drop->by_die)
      for (const RequestId request : die)
        // One that hands over has its KV expected next; of one that all dies share only the first of them has to say so.
        if (const auto found = granted_.find(request); found != granted_.end() && !found->second.hands_over)
          granted_.erase(found);
  link_.send(command, now);
}

/// A block of a prompt under way stays: its die may still load it, and may find it there when it stores it again. All
/// dies that get their order later find it gone.
void ModelledFleet::follow_directory(RunTime now) {
  if (!pool_ || !options_.remove_block) return;
  pool_->advance(now);
  for (const PoolChange& change : pool_->take_changes())
    if (change.kind == PoolChange::Kind::evicted) given_up_.push_back(change.key);
  if (given_up_.empty()) return;
  std::unordered_set<pool::Key> in_use;
  for (const auto& [request, granted] : granted_)
    if (granted.done < granted.prompt_tokens) in_use.insert(granted.keys.begin(), granted.keys.end());
  std::erase_if(given_up_, [&](const pool::Key& key) {
    if (!pool_->evicted(key)) return true;  // stored again meanwhile
    if (in_use.contains(key)) return false;
    options_.remove_block(key);
    return true;
  });
}

void ModelledFleet::begin(const StartStep& step, RunTime now) {
  for (std::size_t die = 0; die < step.by_die.size(); ++die) {
    const RunTime start = step.start_by_die.empty() ? now : step.start_by_die[die];
    const auto number = static_cast<int>(die);
    stepping_.emplace(step.instance.stage == emulation::Stage::prefill
                          ? prefill_rank(config_, step.instance.index, number)
                          : decode_rank(config_, step.instance.index, number),
                      start);
    starts_.insert(start);
  }
  link_.send(step, now);
}

/// Looks up what the pool has for each prompt that begins, now, and when it will be on its die. Of a prompt that all dies
/// share each loads its part.
StartStep ModelledFleet::grant(StartStep command, RunTime now) {
  follow_directory(now);
  command.start_by_die.assign(command.by_die.size(), now);
  for (const std::vector<Work>& works : command.by_die)
    for (const Work& work : works) {
      if (work.begins) continue;
      Granted& granted = granted_.at(work.request);
      granted.tokens = 0;
      granted.ordered = granted.ready = now;
    }
  for (std::size_t die = 0; die < command.by_die.size(); ++die) {
    std::vector<OwnerShare> shares;
    for (Work& work : command.by_die[die]) {
      if (!work.begins) continue;
      std::vector<OwnerShare> loads;
      const Granted& granted = look_up(work, now, loads);
      if (granted.shared && pool_)
        loads = dealt_blocks(
            std::span(granted.keys).first(static_cast<std::size_t>(granted.tokens / config_.context_block_tokens)),
            static_cast<int>(die));
      work.begins->granted_tokens = granted.tokens;
      for (const OwnerShare& share : loads) {
        work.begins->loads.push_back({share.owner, static_cast<double>(share.bytes)});
        shares.push_back(share);
      }
    }
    if (shares.empty()) continue;
    const int index = die_index(Role::prefill, {command.instance.index, static_cast<int>(die)});
    const PoolLoadTimes times = ports_.loads(index, shares, now);
    // The step itself has the loads as the die's own link takes them; whatever makes them later comes before it.
    double bytes = 0;
    for (const OwnerShare& share : shares) bytes += static_cast<double>(share.bytes);
    const double piece = static_cast<double>(pool_->config().block_bytes) / pool_->config().pieces_per_block;
    const RunSpan in_step = run_span(pool_read_time(options_.machine, options_.network, bytes, piece).total().value);
    command.start_by_die[die] = std::max(now, times.ready - in_step);
    for (const Work& work : command.by_die[die]) {
      RunTime& ready = granted_.at(work.request).ready;
      ready = std::max(ready, times.ready);
    }
  }
  return command;
}

/// Once for each prompt, whatever the number of dies that have it. @param loads gets what one die has to load
ModelledFleet::Granted& ModelledFleet::look_up(const Work& work, RunTime now, std::vector<OwnerShare>& loads) {
  const auto [entry, fresh] = granted_.try_emplace(work.request);
  Granted& granted = entry->second;
  if (!fresh) return granted;
  granted.decode = work.begins->decode;
  granted.prompt_tokens = work.begins->request->prompt_tokens();
  granted.hands_over = work.begins->request->max_output > 1;
  granted.shared = work.home.has_value();
  granted.ordered = granted.ready = now;
  if (!pool_) return granted;
  granted.keys = pool::chain_keys(root_, work.begins->request->prompt, config_.context_block_tokens);
  PrefixHit hit = pool_->lookup(granted.keys, granted.prompt_tokens, now);
  granted.tokens = hit.tokens;
  loads = std::move(hit.loads);
  return granted;
}

std::vector<OwnerShare> ModelledFleet::dealt_blocks(std::span<const pool::Key> blocks, int die) const {
  const ModelledPoolConfig& pool = pool_->config();
  std::map<int, std::int64_t> by_owner;
  for (auto block = static_cast<std::size_t>(die); block < blocks.size();
       block += static_cast<std::size_t>(config_.prefill_dies))
    ++by_owner[pool_->owner_of(blocks[block])];
  std::vector<OwnerShare> shares;
  for (const auto& [owner, count] : by_owner)
    shares.push_back({owner, count * pool.block_bytes, count * pool.pieces_per_block});
  return shares;
}

// ---- reports ----

void ModelledFleet::take(Stamped<FleetWire::Incoming> report) {
  if (const auto* kv = std::get_if<KvArrived>(&report.what)) {
    const auto arrives = coming_.extract(kv->request);
    expect(static_cast<bool>(arrives), "KV came that was not on its way");
    arrivals_.erase(arrivals_.find(arrives.mapped()));
    calendar_.emplace(Key{arrives.mapped(), kKv, kv->die.instance, kv->die.die, kv->request}, *kv);
    return;
  }
  const auto ended = [&](int rank, int kind, DieId die, What what) {
    const auto step = stepping_.extract(rank);
    expect(static_cast<bool>(step), "a step ended that was not ordered");
    if (report.stamp <= step.mapped())
      throw EnvironmentError(fmt::format("rank {} reported a step that ended before it began", rank));
    starts_.erase(starts_.find(step.mapped()));
    calendar_.emplace(Key{report.stamp, kind, die.instance, die.die, 0}, std::move(what));
  };
  if (auto* batch = std::get_if<PrefillReported>(&report.what)) {
    const DieId die = batch->die;
    ended(prefill_rank(config_, die.instance, die.die), kPrefill, die, std::move(*batch));
  } else if (auto* iteration = std::get_if<DecodeReported>(&report.what)) {
    const DieId die = iteration->die;
    ended(decode_rank(config_, die.instance, die.die), kDecode, die, std::move(*iteration));
  }
}

void ModelledFleet::settle(PrefillReported& report, RunTime end) {
  for (PrefillResult& result : report.results) {
    const auto entry = granted_.find(result.request);
    if (entry == granted_.end())
      throw EnvironmentError(fmt::format("a prefill result for request {}, which had no order", result.request));
    Granted& granted = entry->second;
    if (result.hit_tokens != granted.tokens)
      throw EnvironmentError(fmt::format("request {} took {} tokens from the pool where the model has {}",
                                         result.request, result.hit_tokens, granted.tokens));
    const int fresh_tokens = result.hit_tokens + result.computed_tokens;
    granted.done += fresh_tokens;
    const bool whole = granted.done == granted.prompt_tokens;
    result.pool = granted.ready - granted.ordered;
    result.exchange = std::clamp(result.exchange, RunSpan{}, std::max(RunSpan{}, end - granted.ready));
    const bool stores = pool_ && (!whole || result.first_token);
    const auto blocks =
        stores ? std::min(granted.keys.size(), static_cast<std::size_t>(granted.done / config_.context_block_tokens))
               : 0;
    pass_on(granted, report.die, blocks, fresh_tokens, end, granted.shared ? all_ended(report, end) : end);
    if (whole && !granted.hands_over) granted_.erase(entry);
  }
}

RunTime ModelledFleet::all_ended(const PrefillReported& report, RunTime end) const {
  for (const auto& [key, what] : calendar_)
    if (std::get<1>(key) == kPrefill && std::get<2>(key) == report.die.instance) end = std::max(end, std::get<0>(key));
  return end;
}

/// New blocks to the pool, new KV to the decode die; of a prompt that all dies share each sends its part.
void ModelledFleet::pass_on(Granted& granted, DieId home, std::size_t blocks, int fresh_tokens, RunTime now,
                            RunTime ended) {
  const int dies = granted.shared ? config_.prefill_dies : 1;
  const auto index_of = [&](int die) {
    return die_index(Role::prefill, granted.shared ? DieId{home.instance, die} : home);
  };
  if (blocks > 0) {
    const Announced fresh = pool_->announce(std::span(granted.keys).first(blocks), now);
    RunTime written = ended;
    for (int die = 0; die < dies; ++die)
      written = std::max(
          written, ports_.stores(index_of(die), granted.shared ? dealt_blocks(fresh.keys, die) : fresh.writes, ended));
    pool_->publish(fresh, written);
  }
  if (!granted.hands_over) return;
  for (int die = 0; die < dies; ++die) {
    const int tokens = granted.shared ? moe::share_of(fresh_tokens, dies, die, home.die).count : fresh_tokens;
    if (tokens == 0) continue;
    const auto bytes = static_cast<std::int64_t>(options_.kv_bytes_per_token * tokens);
    granted.handed_over = std::max(
        granted.handed_over, ports_.handover(index_of(die), die_index(Role::decode, granted.decode), bytes, ended));
  }
}

// ---- order ----

/// The next event, if nothing earlier can follow.
std::optional<Event> ModelledFleet::release() {
  const std::optional<RunTime> arrival = source_.next_at();
  const bool reported = !calendar_.empty();
  const RunTime first = reported ? std::get<0>(calendar_.begin()->first) : RunTime::max();
  const bool arrives = arrival && (!reported || *arrival <= first);
  if (!arrives && !reported) return std::nullopt;
  const RunTime time = arrives ? *arrival : first;
  // A step under way ends later than it begins; KV on its way comes at a time that is known.
  if (!starts_.empty() && time > *starts_.begin()) return std::nullopt;
  if (!arrivals_.empty()) {
    const bool behind_kv = !arrives && std::get<1>(calendar_.begin()->first) >= kKv;
    const RunTime coming = *arrivals_.begin();
    if (time > coming || (time == coming && behind_kv)) return std::nullopt;
  }
  expect(time >= last_, "an event in the past of the modelled clock");
  last_ = time;
  if (arrives) return source_.poll(time);
  auto entry = calendar_.extract(calendar_.begin());
  Event event{time, {}};
  if (auto* batch = std::get_if<PrefillReported>(&entry.mapped())) {
    settle(*batch, time);
    event.what = std::move(*batch);
  } else if (const auto* kv = std::get_if<KvArrived>(&entry.mapped())) {
    event.what = *kv;
  } else {
    event.what = std::move(std::get<DecodeReported>(entry.mapped()));
  }
  return event;
}

Event ModelledFleet::next() {
  SpinWait spin(Idle::bell);
  for (;;) {
    const WallTime looked = link_.now();
    link_.keep_alive(looked, last_);
    bool any = false;
    while (auto report = link_.poll()) {
      any = true;
      take(std::move(*report));
    }
    if (std::optional<Event> event = release()) return std::move(*event);
    if (any) {
      spin.reset();
      continue;
    }
    link_.give_up_if_overdue(looked);
    spin.turn();
  }
}

std::map<std::string, std::uint64_t> ModelledFleet::miss_reasons() const {
  std::map<std::string, std::uint64_t> reasons;
  if (!pool_) return reasons;
  for (std::size_t reason = 0; reason < kBlockMisses; ++reason)
    if (const std::uint64_t blocks = pool_->stats().misses[reason]; blocks > 0)
      reasons[std::string(to_string(static_cast<BlockMiss>(reason)))] = blocks;
  return reasons;
}

WorkerStatistics ModelledFleet::stop(Unfinished unfinished) {
  WorkerStatistics counts = link_.stop(last_, unfinished);
  const auto taken_s = [](const PortTotals& totals) { return to_seconds(totals.uncontended + totals.queued); };
  counts.payload.handover.modelled_s = taken_s(ports_.handover_totals());
  counts.payload.pool_load.modelled_s = taken_s(ports_.load_totals());
  counts.payload.pool_store.modelled_s = taken_s(ports_.store_totals());
  if (!pool_) return counts;
  const ModelledPoolStats& stats = pool_->stats();
  counts.lookups = stats.asked;
  counts.hits = stats.hits;
  counts.stored_blocks = stats.announced;
  counts.dropped_blocks = stats.too_large;
  counts.known_blocks = stats.already_there;
  counts.drop_reasons.clear();
  if (stats.too_large > 0) counts.drop_reasons["too_large"] = stats.too_large;
  counts.miss_reasons = miss_reasons();
  return counts;
}

}  // namespace supernode::serving
