#include "runtime/serving/runs/shape_run.hpp"

#include <memory>
#include <optional>
#include <utility>

#include "collectives/rule_file.hpp"
#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/serving/runs/modelled_run.hpp"
#include "runtime/serving/runs/run_pool.hpp"
#include "runtime/serving/runs/worker_run.hpp"
#include "runtime/serving/workers/carried_engine.hpp"
#include "runtime/serving/workers/shape_engine.hpp"

namespace supernode::serving {
namespace {

using Rules = std::shared_ptr<const collectives::SelectionRules>;

void work_as_cache(const WorkerContext& context) {
  if (context.pool)
    run_cache_worker(context, {});
  else
    run_idle_cache_worker(context);
}

/// A prefill or decode die. @param rules null where payload is elided
/// @param began when serving began
void work_as_die(WorkerContext context, const Communicator& instance, const ServeOptions& options, const Rules& rules,
                 WallTime began) {
  const ModelledRun& run = *options.modelled;
  ModelledInstance modelled = modelled_instance(options, context.part);
  ShapeEngine shape({.model = run.model,
                     .setup = modelled.setup,
                     .load = expert_load(run.config, run.model.experts),
                     .seed = run.seed,
                     .die = context.part.die,
                     .microbatches = run.config.microbatches == 0 ? 2 : run.config.microbatches,
                     .acceptance = run.config.acceptance,
                     .vocabulary = run.vocabulary,
                     .bytes_per_token = run.payload == Payload::carried ? run.bytes_per_token : 0});
  std::optional<CarriedEngine> carried;
  if (run.payload == Payload::carried)
    carried.emplace(shape, instance,
                    CarriedExchangeOptions{.model = run.model,
                                           .setup = modelled.setup,
                                           .algorithm = options.serving.exchange,
                                           .rules = rules,
                                           .deadline_s = options.deadline_s});
  StepEngine& inner = carried ? static_cast<StepEngine&>(*carried) : shape;
  Mailbox dies(instance);
  ModelledEngine engine(inner, dies, context.part.die, std::move(modelled), options.deadline_s,
                        step_reporting(options, *context.control, began),
                        injections_of(context.rank, options.injections));
  context.engine = &engine;
  run_die(context);
}

}  // namespace

ServeOutcome run_shape(const Communicator& world, const ServeOptions& options, std::vector<Request> requests,
                       StepLog* steps) {
  const ModelledRun& run = *options.modelled;
  const Part part = part_of(options.serving, world.rank());
  const int color = instance_color(options.serving, part);
  const Communicator instance = world.split(color < 0 ? MPI_UNDEFINED : color, world.rank());
  const Communicator control = world.duplicate();
  const Communicator transfer = world.duplicate();
  const Rules rules =
      run.payload == Payload::carried ? collectives::load_rules(world, options.serving.selection) : nullptr;
  const std::unique_ptr<pool::Pool> shared_pool = make_pool(world, options);
  world.barrier();  // so that wall time is that of serving
  const WallTime began = wall_now();
  if (part.role == Role::coordinator) {
    ServeOutcome outcome = coordinate_modelled(control, options, shared_pool.get(), std::move(requests), steps);
    stop_pool(shared_pool.get());
    return outcome;
  }
  Mailbox control_box(control), transfer_box(transfer);
  WorkerContext context = worker_context(options, part, control.rank(), control_box, transfer_box, run.model_name);
  if (part.role == Role::cache || options.serving.context_cache) context.pool = shared_pool.get();
  if (part.role == Role::cache)
    work_as_cache(context);
  else
    work_as_die(context, instance, options, rules, began);
  return {};
}

}  // namespace supernode::serving
