#include "runtime/serving/server.hpp"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "collectives/rule_file.hpp"
#include "memory_pool/model_cache.hpp"
#include "memory_pool/pool.hpp"
#include "moe/checkpoint.hpp"
#include "runtime/core/json.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/serving/fleet/wall_fleet.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/workers/worker.hpp"

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

/// A model's place and its newest file: blocks may outlive a run in files, and a model that was changed in place must
/// not meet them. Rank 0's view counts, since copies on other hosts have other times.
std::string identity_of(const std::string& checkpoint) {
  std::error_code ignored;
  auto newest = std::filesystem::last_write_time(checkpoint, ignored);
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint, ignored))
    newest = std::max(newest, entry.last_write_time(ignored));
  return fmt::format("{}@{}", std::filesystem::absolute(checkpoint, ignored).lexically_normal().string(),
                     newest.time_since_epoch().count());
}

/// Runs `step` on the ranks that own no part of the pool, and on owners `owner_step`, while all owners serve. Then
/// agrees on the outcome.
void with_owners_serving(const Communicator& world, pool::Pool& pool, const std::function<void()>& step,
                         const std::function<void()>& owner_step) {
  std::exception_ptr failure;
  try {
    pool.is_owner() ? owner_step() : step();
  } catch (...) {
    failure = std::current_exception();
  }
  MPI_Request everyone = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Ibarrier(world.get(), &everyone));
  SpinWait spin(true);
  for (int here = 0; !here;) {
    if (pool.progress())
      spin.reset();
    else
      spin.turn();
    SUPERNODE_MPI(MPI_Test(&everyone, &here, MPI_STATUS_IGNORE));
  }
  agree(world, failure);
}

/// The model's files come into the pool, read once, and every rank of an instance builds its part from there.
/// @returns bytes of the files, and bytes that were read.
std::pair<std::uint64_t, std::uint64_t> build_from_pool(const Communicator& world, const Communicator& instance,
                                                        pool::Pool& pool, const ServeOptions& options,
                                                        const pool::ModelId& id,
                                                        const std::function<void(moe::Checkpoint)>& build) {
  pool::ModelCache models(pool);
  pool::ModelCache::Outcome outcome;
  with_owners_serving(
      world, pool, [] {},
      [&] {
        DiskFiles files = moe::Checkpoint::files_of(options.checkpoint);
        outcome = models.prefetch(id, files);
        if (outcome.status == pool::Status::stored || outcome.status == pool::Status::already_there) return;
        throw UsageError(fmt::format(
            "--model-from-pool: {} has {} bytes, which {} cache rank(s) with pool.capacity = {} cannot hold ({})",
            options.checkpoint, outcome.bytes, options.serving.cache_ranks, options.pool.capacity.value,
            to_string(outcome.status)));
      });
  with_owners_serving(
      world, pool,
      [&] {
        if (!instance) return;
        build(collectively(instance, [&] {
          std::shared_ptr<pool::PooledModel> files = models.open(id);
          if (!files) throw EnvironmentError(fmt::format("{}: no longer in the pool", id.model));
          return moe::Checkpoint(std::move(files));
        }));
      },
      [] {});
  return {static_cast<std::uint64_t>(world.max(static_cast<long long>(outcome.bytes))),
          static_cast<std::uint64_t>(world.sum(static_cast<long long>(outcome.bytes_read)))};
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
  collectively(world, [&] {
    check_world_size(config, world.size());
    if (options.model_from_pool && config.cache_ranks == 0)
      throw UsageError("--model-from-pool needs a pool: serving.cache_ranks is 0");
  });
  const Part part = part_of(config, world.rank());
  const Communicator instance = world.split(instance_color(config, part), world.rank());
  const Communicator control = world.duplicate();
  const Communicator transfer = world.duplicate();
  const std::string identity = world.broadcast(world.rank() == 0 ? identity_of(options.checkpoint) : "");

  std::unique_ptr<pool::Pool> shared_pool;
  if (config.cache_ranks > 0) {
    std::vector<int> owners(static_cast<std::size_t>(config.cache_ranks));
    std::iota(owners.begin(), owners.end(), cache_rank(config, 0));
    shared_pool = std::make_unique<pool::Pool>(world, owners, options.pool);
  }
  std::unique_ptr<moe::Transformer> model;
  moe::TransformerOptions wanted;
  wanted.type = options.type;
  wanted.max_batch_tokens = config.max_batch_tokens;
  wanted.max_positions = config.max_model_len;
  wanted.exchange = config.exchange;
  wanted.exchange_rules = collectives::load_rules(world, config.selection);
  if (part.role == Role::decode) wanted.typical_tokens = config.max_decode_batch;
  wanted.deadline = options.deadline_s;
  ServeOutcome outcome;
  // A bad checkpoint is agreed within an instance first, then by all.
  if (options.model_from_pool) {
    const auto build = [&](moe::Checkpoint checkpoint) {
      model = std::make_unique<moe::Transformer>(std::move(checkpoint), wanted, instance);
    };
    std::tie(outcome.pool.model_bytes, outcome.pool.model_bytes_read) =
        build_from_pool(world, instance, *shared_pool, options, {options.checkpoint, identity}, build);
  } else {
    collectively(world, [&] {
      if (instance) model = std::make_unique<moe::Transformer>(options.checkpoint, wanted, instance);
    });
  }
  world.barrier();  // nobody's first request pays for another's start

  if (part.role == Role::coordinator) {
    log(LogLevel::info, "serving {} requests", requests.size());
    ServeOutcome served = coordinate(control, options, requests);
    served.pool.model_bytes = outcome.pool.model_bytes;
    served.pool.model_bytes_read = outcome.pool.model_bytes_read;
    outcome = std::move(served);
    if (shared_pool && !shared_pool->stop()) log(LogLevel::warning, "a cache rank did not take the order to stop");
  } else {
    WorkerContext context;
    context.config = &config;
    context.control = &control;
    context.transfer = &transfer;
    context.model = model.get();
    context.pool = shared_pool.get();
    context.model_name = fmt::format("{}/{}", identity, name_of(options.type));
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
