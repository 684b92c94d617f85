#include "runtime/serving/server.hpp"

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "collectives/rule_file.hpp"
#include "memory_pool/pool.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/serving/coordinator/arrivals.hpp"
#include "runtime/serving/coordinator/coordinate.hpp"
#include "runtime/serving/fleet/wall_fleet.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/runs/modelled_run.hpp"
#include "runtime/serving/runs/shape_run.hpp"
#include "runtime/serving/runs/worker_run.hpp"
#include "runtime/serving/workers/model_source.hpp"
#include "runtime/serving/workers/real_engine.hpp"

namespace supernode::serving {
namespace {

std::unique_ptr<pool::Pool> make_pool(const Communicator& world, const ServeOptions& options) {
  const ServingConfig& config = options.serving;
  if (config.cache_ranks == 0) return nullptr;
  std::vector<int> owners(static_cast<std::size_t>(config.cache_ranks));
  std::iota(owners.begin(), owners.end(), cache_rank(config, 0));
  return std::make_unique<pool::Pool>(world, owners, options.pool);
}

moe::TransformerOptions model_options(const Communicator& world, const ServeOptions& options, Role role) {
  const ServingConfig& config = options.serving;
  moe::TransformerOptions wanted;
  wanted.type = options.type;
  wanted.max_batch_tokens = config.max_batch_tokens;
  wanted.max_positions = config.max_model_len;
  wanted.exchange = config.exchange;
  wanted.exchange_rules = collectives::load_rules(world, config.selection);
  wanted.microbatches = config.microbatches;
  wanted.mtp = config.speculates();
  wanted.draft_experts = config.mtp_experts;
  wanted.draft_window = config.mtp_window;
  if (role == Role::decode) wanted.typical_tokens = config.max_decode_batch * (config.speculates() ? 2 : 1);
  wanted.deadline = options.deadline_s;
  return wanted;
}

/// Of an engine over a model of model_options().
RealEngineOptions engine_options(const ServeOptions& options, Role role) {
  RealEngineOptions wanted;
  if (options.modelled) wanted.records = StepRecords::kept;
  if (options.serving.speculates()) wanted.speculation = role == Role::decode ? Speculation::guess : Speculation::fill;
  if (role == Role::prefill && options.serving.cache_ranks > 0)
    wanted.block_tokens = options.serving.context_block_tokens;
  return wanted;
}

/// What context blocks belong to: the model as it was read, the type that computed them, and what their bytes are.
std::string block_format(const ServeOptions& options, const std::string& identity, const moe::ModelConfig& model) {
  const auto draft = options.serving.speculates() ? moe::DraftCache::included : moe::DraftCache::none;
  return fmt::format("{}/{}/{}", identity, name_of(options.type), moe::state_format(model, draft));
}

/// Rank 0's part of the run.
ServeOutcome coordinate_run(const Communicator& control, const ServeOptions& options, std::vector<Request> requests) {
  log(LogLevel::info, "serving {} requests", requests.size());
  Mailbox mailbox(control);
  Arrivals arrivals(std::move(requests));
  WallFleet fleet(options.serving, arrivals, mailbox, options.deadline_s);
  ServedLog served;
  Scheduler scheduler(options.serving, served, options.max_concurrency);
  const WallTime start = wall_now();
  const WorkerStatistics counts = coordinate(scheduler, fleet);
  ServeOutcome outcome;
  outcome.wall = wall_now() - start;
  outcome.requests = served.take();
  outcome.pool = pool_figures(counts);
  outcome.guesses = counts.guesses;
  return outcome;
}

/// Any other rank's.
void work(const Communicator& control, const Communicator& transfer, const Communicator& instance,
          const ServeOptions& options, const std::string& identity, moe::Transformer* model, pool::Pool* shared_pool,
          const Part& part) {
  Mailbox control_box(control), transfer_box(transfer);
  // On a modelled clock the coordinator makes the same keys.
  std::string name;
  if (model) name = options.modelled ? options.modelled->model_name : block_format(options, identity, model->config());
  WorkerContext context = worker_context(options, part, control.rank(), control_box, transfer_box, std::move(name));
  context.pool = shared_pool;
  if (part.role == Role::cache) {
    run_cache_worker(context, options.injections);
    return;
  }
  RealEngine real(*model, engine_options(options, part.role));
  std::optional<ModelledEngine> modelled;
  if (options.modelled) modelled.emplace(real, instance, modelled_instance(options, part), options.deadline_s);
  context.engine = modelled ? static_cast<StepEngine*>(&*modelled) : &real;
  run_die(context);
}

}  // namespace

int max_request_length(const ServingConfig& serving, const moe::ModelConfig& model) {
  const int by_model = serving.max_model_len > 0 ? serving.max_model_len : model.max_positions;
  return std::min(by_model, serving.decode_kv_tokens);
}

ServeOutcome serve(const Communicator& world, const ServeOptions& options, std::vector<Request> requests) {
  const ServingConfig& config = options.serving;
  // Every rank sees the same size, so all throw or none does.
  collectively(world, [&] {
    check_world_size(config, world.size());
    if (options.modelled && options.model_from_pool)
      throw UsageError("--model-from-pool: a modelled machine has no files in its pool");
    if (options.modelled && !options.injections.empty())
      throw UsageError("--inject: failures happen at wall times, a modelled machine has none");
    if (options.modelled && options.modelled->compute == Compute::real && config.cache_ranks > 0)
      static_cast<void>(blocks_really_held(options));
    if (options.model_from_pool && config.cache_ranks == 0)
      throw UsageError("--model-from-pool needs a pool: serving.cache_ranks is 0");
  });
  if (options.modelled && options.modelled->compute == Compute::shape)
    return run_shape(world, options, std::move(requests));
  const Part part = part_of(config, world.rank());
  const int color = instance_color(config, part);
  const Communicator instance = world.split(color < 0 ? MPI_UNDEFINED : color, world.rank());
  const Communicator control = world.duplicate();
  const Communicator transfer = world.duplicate();
  const std::string identity = model_identity(world, options.checkpoint);
  const std::unique_ptr<pool::Pool> shared_pool = make_pool(world, options);
  const moe::TransformerOptions wanted = model_options(world, options, part.role);
  const BuiltModel built = options.model_from_pool
                               ? build_from_pool(world, instance, *shared_pool, options.checkpoint, identity, wanted)
                               : build_from_files(world, instance, options.checkpoint, wanted);
  collectively(world, [&] {
    if (config.speculates() && built.model && !built.model->can_draft())
      throw UsageError(fmt::format("serving.mtp: the model '{}' has no MTP module", options.checkpoint));
  });
  world.barrier();  // so that no request is charged for a rank that starts late

  if (part.role != Role::coordinator) {
    work(control, transfer, instance, options, identity, built.model.get(), shared_pool.get(), part);
    return {};
  }
  ServeOutcome outcome = options.modelled
                             ? coordinate_modelled(control, options, CacheOrders::pool, std::move(requests))
                             : coordinate_run(control, options, std::move(requests));
  outcome.pool.model_bytes = built.bytes;
  outcome.pool.model_bytes_read = built.bytes_read;
  if (shared_pool && !shared_pool->stop()) log(LogLevel::warning, "a cache rank did not take the order to stop");
  return outcome;
}

}  // namespace supernode::serving
