#include "runtime/serving/runs/shape_run.hpp"

#include <utility>

#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/serving/runs/modelled_run.hpp"
#include "runtime/serving/runs/worker_run.hpp"
#include "runtime/serving/workers/shape_engine.hpp"

namespace supernode::serving {
namespace {

void work(const Communicator& control, const Communicator& transfer, const Communicator& instance,
          const ServeOptions& options, const Part& part) {
  const WallTime began = wall_now();
  const ModelledRun& run = *options.modelled;
  Mailbox control_box(control), transfer_box(transfer);
  WorkerContext context = worker_context(options, part, control.rank(), control_box, transfer_box, run.model_name);
  if (part.role == Role::cache) {
    run_idle_cache_worker(context);
    return;
  }
  ModelledInstance modelled = modelled_instance(options, part);
  ShapeEngine shape({.model = run.model,
                     .setup = modelled.setup,
                     .load = expert_load(run.config, run.model.experts),
                     .seed = run.seed,
                     .die = part.die,
                     .microbatches = run.config.microbatches,
                     .acceptance = run.config.acceptance,
                     .vocabulary = run.vocabulary});
  Mailbox dies(instance);
  ModelledEngine engine(shape, dies, part.die, std::move(modelled), options.deadline_s,
                        step_reporting(options, control_box, began));
  context.engine = &engine;
  run_die(context);
}

}  // namespace

ServeOutcome run_shape(const Communicator& world, const ServeOptions& options, std::vector<Request> requests,
                       StepLog* steps) {
  const Part part = part_of(options.serving, world.rank());
  const int color = instance_color(options.serving, part);
  const Communicator instance = world.split(color < 0 ? MPI_UNDEFINED : color, world.rank());
  const Communicator control = world.duplicate();
  const Communicator transfer = world.duplicate();
  world.barrier();  // so that wall time is that of serving
  if (part.role == Role::coordinator)
    return coordinate_modelled(control, options, CacheOrders::coordinator, std::move(requests), steps);
  work(control, transfer, instance, options, part);
  return {};
}

}  // namespace supernode::serving
