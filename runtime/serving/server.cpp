#include "runtime/serving/server.hpp"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>

#include <fmt/format.h>

#include "memory_pool/pool.hpp"
#include "runtime/core/agreement.hpp"
#include "runtime/core/json.hpp"
#include "runtime/core/log.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/wall_fleet.hpp"
#include "runtime/serving/worker.hpp"

namespace supernode::serving {
namespace {

/// One color an instance; the coordinator and the cache ranks hold no model.
int instance_color(const ServingConfig& config, const Part& part) {
  switch (part.role) {
    case Role::prefill:
      return part.instance;
    case Role::decode:
      return config.prefill_instances + part.instance;
    default:
      return MPI_UNDEFINED;
  }
}

/// What makes KV bytes differ: the model's place, its newest file and the type. Cache blocks may outlive a run in
/// files, and a model that was changed in place must not meet them. Rank 0's view counts, since copies on other hosts
/// have other times.
std::string identity_of(const std::string& checkpoint, moe::ComputeType type) {
  std::error_code ignored;
  auto newest = std::filesystem::last_write_time(checkpoint, ignored);
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint, ignored))
    newest = std::max(newest, entry.last_write_time(ignored));
  return fmt::format("{}@{}/{}", std::filesystem::absolute(checkpoint, ignored).lexically_normal().string(),
                     newest.time_since_epoch().count(), moe::name_of(type));
}

PoolFigures add_up(const std::map<int, std::string>& last_words) {
  PoolFigures figures;
  for (const auto& [rank, text] : last_words) {
    if (text.empty()) continue;
    const Json counts = Json::parse(text);
    figures.lookups += counts["lookups"].get<std::uint64_t>();
    figures.hits += counts["hits"].get<std::uint64_t>();
    figures.stored_blocks += counts["stored"].get<std::uint64_t>();
    figures.dropped_blocks += counts["dropped"].get<std::uint64_t>();
    for (const auto& [reason, count] : counts["miss_reasons"].items())
      figures.miss_reasons[reason] += count.get<std::uint64_t>();
  }
  return figures;
}

ServeOutcome coordinate(const Communicator& control, const ServeOptions& options,
                        const std::vector<Request>& requests) {
  Mailbox mailbox(control);
  WallFleet fleet(options.serving, requests, mailbox, options.deadline_s);
  Scheduler scheduler(options.serving, requests, options.max_concurrency);
  while (!scheduler.done()) {
    const Event event = fleet.next();
    for (const Command& command : scheduler.handle(event)) fleet.perform(command, event.time);
  }
  return {scheduler.records(), add_up(fleet.stop())};
}

}  // namespace

int max_request_length(const ServingConfig& serving, const moe::ModelConfig& model) {
  const int by_model = serving.max_model_len > 0 ? serving.max_model_len : model.max_positions;
  return std::min(by_model, serving.decode_kv_tokens);
}

ServeOutcome serve(const Communicator& world, const ServeOptions& options, const std::vector<Request>& requests) {
  const ServingConfig& config = options.serving;
  // Every rank sees the same size, so all throw or none does.
  collectively(world, [&] { check_world_size(config, world.size()); });
  const Part part = part_of(config, world.rank());
  const Communicator instance = world.split(instance_color(config, part), world.rank());
  const Communicator control = world.duplicate();
  const Communicator transfer = world.duplicate();
  const std::string model_name =
      world.broadcast(world.rank() == 0 ? identity_of(options.checkpoint, options.type) : "");

  // A bad checkpoint is agreed within an instance first, then by all.
  std::unique_ptr<moe::Transformer> model;
  collectively(world, [&] {
    if (!instance) return;
    moe::TransformerOptions wanted;
    wanted.type = options.type;
    wanted.max_batch_tokens = config.max_batch_tokens;
    wanted.max_positions = config.max_model_len;
    wanted.exchange = config.exchange;
    wanted.deadline = options.deadline_s;
    model = std::make_unique<moe::Transformer>(options.checkpoint, wanted, instance);
  });
  std::unique_ptr<pool::Pool> shared_pool;
  if (config.cache_ranks > 0) {
    std::vector<int> owners(static_cast<std::size_t>(config.cache_ranks));
    std::iota(owners.begin(), owners.end(), cache_rank(config, 0));
    shared_pool = std::make_unique<pool::Pool>(world, owners, options.pool);
  }
  world.barrier();  // nobody's first request pays for another's start

  ServeOutcome outcome;
  if (part.role == Role::coordinator) {
    log(LogLevel::info, "serving {} requests", requests.size());
    outcome = coordinate(control, options, requests);
    if (shared_pool && !shared_pool->stop()) log(LogLevel::warning, "a cache rank did not take the order to stop");
  } else {
    WorkerContext context;
    context.config = &config;
    context.control = &control;
    context.transfer = &transfer;
    context.model = model.get();
    context.pool = shared_pool.get();
    context.model_name = model_name;
    context.sampler = options.sampler;
    context.part = part;
    context.deadline_s = options.deadline_s;
    if (part.role == Role::cache) {
      run_cache_worker(context, options.injections);
    } else if (part.role == Role::prefill) {
      run_prefill_worker(context);
    } else {
      run_decode_worker(context);
    }
  }
  return outcome;
}

}  // namespace supernode::serving
