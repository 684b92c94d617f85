#include "runtime/serving/runs/modelled_run.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "memory_pool/client.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/serving/coordinator/arrivals.hpp"
#include "runtime/serving/coordinator/coordinate.hpp"
#include "runtime/serving/coordinator/steady_load.hpp"
#include "runtime/serving/runs/die_times.hpp"
#include "runtime/serving/runs/progress_output.hpp"
#include "runtime/serving/runs/run_pool.hpp"

namespace supernode::serving {
namespace {

ModelledFleetOptions fleet_options(const ServeOptions& options) {
  const ModelledRun& run = *options.modelled;
  const ServingConfig& serving = options.serving;
  ModelledFleetOptions fleet;
  fleet.machine = run.machine;
  fleet.network = step_setup(run.config, serving, emulation::Stage::prefill).network;
  fleet.kv_bytes_per_token = run.model.kv_bytes_per_token();
  fleet.model_name = run.model_name;
  fleet.cache = has_pool(options) ? CacheOrders::pool : CacheOrders::coordinator;
  if (serving.cache_ranks == 0 || !serving.context_cache) return fleet;
  ModelledPoolConfig pool;
  for (int i = 0; i < serving.cache_ranks; ++i) pool.owners.push_back(cache_rank(serving, i));
  pool.virtual_nodes = options.pool.virtual_nodes;
  pool.block_tokens = serving.context_block_tokens;
  pool.block_bytes = static_cast<std::int64_t>(run.model.kv_bytes_per_token() * serving.context_block_tokens);
  const double gigabytes = run.config.pool_gb > 0 ? run.config.pool_gb : run.machine.host_path.dram_gb;
  pool.capacity_bytes = static_cast<std::int64_t>(gigabytes * 1e9);
  if (has_pool(options)) {
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
  const double payload = static_cast<double>(options.modelled->bytes_per_token) * serving.context_block_tokens +
                         static_cast<double>(options.modelled->end_bytes);
  if (payload > static_cast<double>(options.pool.store_buffer.value))
    throw UsageError(fmt::format("pool.store_buffer: {} is less than a context block of {}",
                                 format_size(static_cast<double>(options.pool.store_buffer.value)),
                                 format_size(payload)));
  const double block_bytes = std::ceil(payload / granule) * granule;
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
        fmt::format("pool.capacity: {} is too small for a modelled run that carries payload: batches of "
                    "serving.max_prefill_tokens need {}",
                    format_size(static_cast<double>(options.pool.capacity.value)),
                    format_size((on_their_way + 1) * block_bytes / usable)));
  return static_cast<std::int64_t>(held);
}

ServeOutcome coordinate_modelled(const Communicator& control, const ServeOptions& options, pool::Pool* shared_pool,
                                 std::vector<Request> requests, StepLog* steps) {
  const ModelledRun& run = *options.modelled;
  Mailbox mailbox(control);
  ModelledFleetOptions of_fleet = fleet_options(options);
  of_fleet.steps = steps;
  std::optional<pool::Client> client;
  if (shared_pool) {
    client.emplace(*shared_pool);
    of_fleet.remove_block = [&](const pool::Key& key) { client->remove(key); };
  }
  ServeOutcome outcome;
  WorkerStatistics counts;
  const auto serve_from = [&](RequestSource& source, TokenSink& sink, std::size_t total,
                              const std::function<bool()>& over) {
    ModelledFleet fleet(options.serving, source, mailbox, options.deadline_s, of_fleet);
    RunWatch watch(sink);
    const ProgressOutput progress(watch, options.progress, total);
    Scheduler scheduler(options.serving, watch, options.max_concurrency);
    counts = coordinate(scheduler, fleet, over, &watch);
    outcome.last = fleet.last();
    outcome.series = watch.series();
    outcome.iterations = watch.iterations();
  };
  const WallTime start = wall_now();
  if (run.steady) {
    SteadyLoad load(*run.steady, options.serving);
    serve_from(load, load, 0, [&] { return load.over(); });
    outcome.requests = load.take();
    outcome.steady = load.figures();
  } else {
    log(LogLevel::info, "serving {} requests", requests.size());
    const std::size_t total = requests.size();
    Arrivals arrivals(std::move(requests));
    ServedLog served(options.on_end);
    serve_from(arrivals, served, total, {});
    outcome.requests = served.take();
  }
  outcome.wall = wall_now() - start;
  outcome.die_steps = die_steps(options.serving, counts);
  outcome.pool = pool_figures(counts);
  outcome.guesses = counts.guesses;
  outcome.modelled_s = std::move(counts.modelled_s);
  if (run.payload == Payload::carried) outcome.payload = counts.payload;
  return outcome;
}

ModelledInstance modelled_instance(const ServeOptions& options, const Part& part) {
  const ModelledRun& run = *options.modelled;
  const auto stage = part.role == Role::decode ? emulation::Stage::decode : emulation::Stage::prefill;
  return {run.machine, run.model, step_setup(run.config, options.serving, stage),
          machine_dies(options.serving, stage, part.instance)};
}

std::optional<StepReporting> step_reporting(const ServeOptions& options, MessagePort& control, WallTime began) {
  if (!options.modelled->steps) return std::nullopt;
  const auto tell = [&control](const StepReport& report) {
    for (std::vector<std::byte>& message : make_step_pieces(encode_report(report), report.dies.front().start))
      control.send(0, static_cast<int>(MessageKind::step_piece), std::move(message));
  };
  return StepReporting{*options.modelled->steps, tell, began};
}

}  // namespace supernode::serving
