#include "runtime/serving/runs/modelled_run.hpp"

#include <utility>

#include "runtime/core/log.hpp"
#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/serving/coordinator/arrivals.hpp"
#include "runtime/serving/coordinator/coordinate.hpp"
#include "runtime/serving/coordinator/steady_load.hpp"

namespace supernode::serving {
namespace {

ModelledFleetOptions fleet_options(const ServeOptions& options, CacheOrders cache) {
  const ModelledRun& run = *options.modelled;
  const ServingConfig& serving = options.serving;
  ModelledFleetOptions fleet;
  fleet.machine = run.machine;
  fleet.network = step_setup(run.config, serving, emulation::Stage::prefill).network;
  fleet.kv_bytes_per_token = run.model.kv_bytes_per_token();
  fleet.model_name = run.model_name;
  fleet.cache = cache;
  if (serving.cache_ranks == 0) return fleet;
  ModelledPoolConfig pool;
  for (int i = 0; i < serving.cache_ranks; ++i) pool.owners.push_back(cache_rank(serving, i));
  pool.virtual_nodes = options.pool.virtual_nodes;
  pool.block_tokens = serving.context_block_tokens;
  pool.block_bytes = static_cast<std::int64_t>(run.model.kv_bytes_per_token() * serving.context_block_tokens);
  if (run.config.pool_gb > 0) {
    pool.capacity_bytes = static_cast<std::int64_t>(run.config.pool_gb * 1e9);
  } else if (run.compute == Compute::real) {
    // The pool must hold every block that the directory has, and it also keeps some that the directory has given up.
    const double held = 0.75 * static_cast<double>(options.pool.capacity.value) /
                        (static_cast<double>(run.real_bytes_per_token) * serving.context_block_tokens);
    pool.capacity_bytes = static_cast<std::int64_t>(held) * pool.block_bytes;
  } else {
    pool.capacity_bytes = static_cast<std::int64_t>(run.machine.host_path.dram_gb * 1e9);
  }
  pool.pieces_per_block = run.model.layers;
  fleet.pool = std::move(pool);
  return fleet;
}

}  // namespace

ServeOutcome coordinate_modelled(const Communicator& control, const ServeOptions& options, CacheOrders cache,
                                 std::vector<Request> requests) {
  const ModelledRun& run = *options.modelled;
  Mailbox mailbox(control);
  const ModelledFleetOptions of_fleet = fleet_options(options, cache);
  const auto serve_from = [&](RequestSource& source, TokenSink& sink, const std::function<bool()>& over) {
    ModelledFleet fleet(options.serving, source, mailbox, options.deadline_s, of_fleet);
    Scheduler scheduler(options.serving, sink, options.max_concurrency);
    return coordinate(scheduler, fleet, over);
  };
  ServeOutcome outcome;
  WorkerStatistics counts;
  const WallTime start = wall_now();
  if (run.steady) {
    SteadyLoad load(*run.steady, options.serving);
    counts = serve_from(load, load, [&] { return load.over(); });
    outcome.requests = load.take();
    outcome.steady = load.figures();
  } else {
    log(LogLevel::info, "serving {} requests", requests.size());
    Arrivals arrivals(std::move(requests));
    ServedLog served;
    counts = serve_from(arrivals, served, {});
    outcome.requests = served.take();
  }
  outcome.wall = wall_now() - start;
  outcome.pool = pool_figures(counts);
  outcome.modelled_s = std::move(counts.modelled_s);
  return outcome;
}

ModelledInstance modelled_instance(const ServeOptions& options, const Part& part) {
  const ModelledRun& run = *options.modelled;
  const auto stage = part.role == Role::decode ? emulation::Stage::decode : emulation::Stage::prefill;
  emulation::StepSetup setup = step_setup(run.config, options.serving, stage);
  if (run.compute == Compute::real) setup.mtp = false;  // the real engine does not guess
  return {run.machine, run.model, setup, machine_dies(options.serving, stage, part.instance)};
}

}  // namespace supernode::serving
