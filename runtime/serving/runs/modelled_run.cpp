#include "runtime/serving/runs/modelled_run.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/core/sizes.hpp"
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
  const double gigabytes = run.config.pool_gb > 0 ? run.config.pool_gb : run.machine.host_path.dram_gb;
  pool.capacity_bytes = static_cast<std::int64_t>(gigabytes * 1e9);
  if (run.compute == Compute::real) {
    pool.capacity_bytes = std::min(pool.capacity_bytes, blocks_really_held(options) * pool.block_bytes);
    pool.keep_changes = true;
  }
  pool.pieces_per_block = run.model.layers;
  fleet.pool = std::move(pool);
  return fleet;
}

}  // namespace

std::int64_t blocks_really_held(const ServeOptions& options) {
  const ServingConfig& serving = options.serving;
  const auto granule = static_cast<double>(options.pool.granule.value);
  const double block_bytes =
      std::ceil((static_cast<double>(options.modelled->real_bytes_per_token) * serving.context_block_tokens +
                 static_cast<double>(options.modelled->real_end_bytes)) /
                granule) *
      granule;
  // Stored before the directory has them, or given up by it and not yet removed: of two batches of each instance.
  // Owners get uneven shares of few blocks.
  const double batches = 2.0 * serving.prefill_instances * serving.max_prefill_tokens / serving.context_block_tokens;
  const double on_their_way = batches * (serving.cache_ranks > 1 ? 1.5 / serving.cache_ranks : 1);
  // Above this share a real owner evicts by its own order of use.
  constexpr double usable = 0.85;
  const double held =
      std::floor(usable * static_cast<double>(options.pool.capacity.value) / block_bytes - on_their_way);
  if (held < 1)
    throw UsageError(
        fmt::format("pool.capacity: {} is too small for a modelled run that computes: batches of "
                    "serving.max_prefill_tokens need {}",
                    format_size(static_cast<double>(options.pool.capacity.value)),
                    format_size((on_their_way + 1) * block_bytes / usable)));
  return static_cast<std::int64_t>(held);
}

ServeOutcome coordinate_modelled(const Communicator& control, const ServeOptions& options, CacheOrders cache,
                                 std::vector<Request> requests) {
  const ModelledRun& run = *options.modelled;
  Mailbox mailbox(control);
  const ModelledFleetOptions of_fleet = fleet_options(options, cache);
  ServeOutcome outcome;
  WorkerStatistics counts;
  const auto serve_from = [&](RequestSource& source, TokenSink& sink, const std::function<bool()>& over) {
    ModelledFleet fleet(options.serving, source, mailbox, options.deadline_s, of_fleet);
    Scheduler scheduler(options.serving, sink, options.max_concurrency);
    counts = coordinate(scheduler, fleet, over);
    outcome.last = fleet.last();
  };
  const WallTime start = wall_now();
  if (run.steady) {
    SteadyLoad load(*run.steady, options.serving);
    serve_from(load, load, [&] { return load.over(); });
    outcome.requests = load.take();
    outcome.steady = load.figures();
  } else {
    log(LogLevel::info, "serving {} requests", requests.size());
    Arrivals arrivals(std::move(requests));
    ServedLog served;
    serve_from(arrivals, served, {});
    outcome.requests = served.take();
  }
  outcome.wall = wall_now() - start;
  outcome.pool = pool_figures(counts);
  outcome.guesses = counts.guesses;
  outcome.modelled_s = std::move(counts.modelled_s);
  return outcome;
}

ModelledInstance modelled_instance(const ServeOptions& options, const Part& part) {
  const ModelledRun& run = *options.modelled;
  const auto stage = part.role == Role::decode ? emulation::Stage::decode : emulation::Stage::prefill;
  return {run.machine, run.model, step_setup(run.config, options.serving, stage),
          machine_dies(options.serving, stage, part.instance)};
}

}  // namespace supernode::serving
