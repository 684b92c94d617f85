#include "runtime/serving/server.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "collectives/algorithms.hpp"
#include "collectives/rule_file.hpp"
#include "memory_pool/pool.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/serving/coordinator/arrivals.hpp"
#include "runtime/serving/coordinator/coordinate.hpp"
#include "runtime/serving/fleet/wall_fleet.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/runs/die_times.hpp"
#include "runtime/serving/runs/modelled_run.hpp"
#include "runtime/serving/runs/progress_output.hpp"
#include "runtime/serving/runs/run_pool.hpp"
#include "runtime/serving/runs/shape_run.hpp"
#include "runtime/serving/runs/worker_run.hpp"
#include "runtime/serving/workers/model_source.hpp"
#include "runtime/serving/workers/real_engine.hpp"
#include "runtime/serving/workers/timed_engine.hpp"
#include "runtime/serving/workers/warm_up.hpp"

namespace supernode::serving {
namespace {

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
  if (role == Role::prefill && options.serving.cache_ranks > 0 && options.serving.context_cache)
    wanted.block_tokens = options.serving.context_block_tokens;
  return wanted;
}

/// @param model null on ranks of no instance
void warm_up_model(moe::Transformer* model, Role role, const ServeOptions& options) {
  if (!model) return;
  RealEngine engine(*model, engine_options(options, role));
  warm_up(
      engine, role, options.serving,
      {.vocabulary = model->config().vocab_size, .max_length = max_request_length(options.serving, model->config())});
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
  ServedLog served(options.on_end);
  RunWatch watch(served);
  const ProgressOutput progress(watch, options.progress, requests.size());
  Arrivals arrivals(std::move(requests));
  WallFleet fleet(options.serving, arrivals, mailbox, options.deadline_s);
  Scheduler scheduler(options.serving, watch, options.max_concurrency);
  const WallTime start = wall_now();
  const WorkerStatistics counts = coordinate(scheduler, fleet, {}, &watch);
  ServeOutcome outcome;
  outcome.series = watch.series();
  outcome.iterations = watch.iterations();
  outcome.die_steps = die_steps(options.serving, counts);
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
  const WallTime began = wall_now();
  Mailbox control_box(control), transfer_box(transfer);
  // On a modelled clock the coordinator makes the same keys.
  std::string name;
  if (model) name = options.modelled ? options.modelled->model_name : block_format(options, identity, model->config());
  WorkerContext context = worker_context(options, part, control.rank(), control_box, transfer_box, std::move(name));
  if (part.role == Role::cache || options.serving.context_cache) context.pool = shared_pool;
  if (part.role == Role::cache) {
    run_cache_worker(context, options.injections);
    return;
  }
  RealEngine real(*model, engine_options(options, part.role));
  Mailbox dies(instance);
  std::unique_ptr<StepEngine> on_clock;
  if (options.modelled)
    on_clock = std::make_unique<ModelledEngine>(real, dies, part.die, modelled_instance(options, part),
                                                options.deadline_s, step_reporting(options, control_box, began),
                                                injections_of(control.rank(), options.injections));
  else
    on_clock = std::make_unique<TimedEngine>(real, injections_of(control.rank(), options.injections));
  context.engine = on_clock.get();
  run_die(context);
}

}  // namespace

int max_request_length(const ServingConfig& serving, const moe::ModelConfig& model) {
  const int by_model = serving.max_model_len > 0 ? serving.max_model_len : model.max_positions;
  return std::min(by_model, serving.decode_kv_tokens);
}

/// What stands from the first run on.
struct Deployment::Standing {
  Communicator instance;  ///< of the dies that work together with this rank
  std::string identity;   ///< of the model
  std::optional<BuiltModel> built;
  // What of a run's options the model was built for.
  int microbatches = 1;
  bool speculates = false;

  bool fits(const ServingConfig& config) const {
    return built && microbatches == config.microbatches && speculates == config.speculates();
  }
};

Deployment::Deployment(const Communicator& world) : world_(world) {}
Deployment::~Deployment() = default;

ServeOutcome Deployment::serve(const ServeOptions& options, std::vector<Request> requests, StepLog* steps) {
  const ServingConfig& config = options.serving;
  // Every rank sees the same size, so all throw or none does.
  collectively(world_, [&] {
    check_world_size(config, world_.size());
    if (config.exchange != "auto") collectives::check_algorithm_name(config.exchange);
    if (options.modelled && options.model_from_pool)
      throw UsageError("--model-from-pool: a modelled machine has no files in its pool");
    for (const Injection& injection : options.injections)
      if (options.modelled && injection.kind != InjectionKind::slow_rank)
        throw UsageError("--inject: on a modelled machine dies may be slow (slow_rank), nothing else fails");
    if (options.modelled && has_pool(options)) static_cast<void>(blocks_really_held(options));
    if (options.model_from_pool && config.cache_ranks == 0)
      throw UsageError("--model-from-pool needs a pool: serving.cache_ranks is 0");
  });
  if (options.modelled && options.modelled->compute == Compute::shape)
    return run_shape(world_, options, std::move(requests), steps);
  return serve_with_model(options, std::move(requests), steps);
}

ServeOutcome Deployment::serve_with_model(const ServeOptions& options, std::vector<Request> requests, StepLog* steps) {
  const Part part = part_of(options.serving, world_.rank());
  if (!standing_) {
    standing_ = std::make_unique<Standing>();
    const int color = instance_color(options.serving, part);
    standing_->instance = world_.split(color < 0 ? MPI_UNDEFINED : color, world_.rank());
    standing_->identity = model_identity(world_, options.checkpoint);
  }
  Standing& standing = *standing_;
  const Communicator control = world_.duplicate();
  const Communicator transfer = world_.duplicate();
  const std::unique_ptr<pool::Pool> shared_pool = make_pool(world_, options);
  if (!standing.fits(options.serving) || options.model_from_pool) {
    standing.microbatches = options.serving.microbatches;
    standing.speculates = options.serving.speculates();
    const moe::TransformerOptions wanted = model_options(world_, options, part.role);
    standing.built.reset();
    standing.built = options.model_from_pool ? build_from_pool(world_, standing.instance, *shared_pool,
                                                               options.checkpoint, standing.identity, wanted)
                                             : build_from_files(world_, standing.instance, options.checkpoint, wanted);
    collectively(world_, [&] {
      if (options.serving.speculates() && standing.built->model && !standing.built->model->can_draft())
        throw UsageError(fmt::format("serving.mtp: the model '{}' has no MTP module", options.checkpoint));
    });
    if (!options.modelled) warm_up_model(standing.built->model.get(), part.role, options);
  }
  const BuiltModel& built = *standing.built;
  world_.barrier();  // so that no request is charged for a rank that starts late

  if (part.role != Role::coordinator) {
    work(control, transfer, standing.instance, options, standing.identity, built.model.get(), shared_pool.get(), part);
    return {};
  }
  ServeOutcome outcome = options.modelled
                             ? coordinate_modelled(control, options, shared_pool.get(), std::move(requests), steps)
                             : coordinate_run(control, options, std::move(requests));
  outcome.pool.model_bytes = built.bytes;
  outcome.pool.model_bytes_read = built.bytes_read;
  stop_pool(shared_pool.get());
  return outcome;
}

ServeOutcome serve(const Communicator& world, const ServeOptions& options, std::vector<Request> requests,
                   StepLog* steps) {
  return Deployment(world).serve(options, std::move(requests), steps);
}

}  // namespace supernode::serving
