#pragma once
// A serving run: every rank of the world has its role until the last request is done.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory_pool/config.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/serving/injection.hpp"
#include "runtime/serving/load/metrics.hpp"
#include "runtime/serving/load/payload.hpp"
#include "runtime/serving/load/run_series.hpp"
#include "runtime/serving/load/steady.hpp"
#include "runtime/serving/modelled_config.hpp"
#include "runtime/serving/record/step_log.hpp"
#include "runtime/serving/serving_config.hpp"

namespace supernode::serving {

/// A run on a modelled machine. Equal on all ranks.
struct ModelledRun {
  emulation::Machine machine;
  emulation::ModelShape model;
  std::string model_name;  ///< part of the keys of context blocks
  int vocabulary = 0;
  std::uint64_t seed = 0;  ///< of drawn tokens and routing
  /// Of states as they are carried: a token, by the computing model or else the emulated machine; and the end behind a
  /// block (StepEngine).
  std::size_t bytes_per_token = 0, end_bytes = 0;
  ModelledConfig config;
  Compute compute = Compute::shape;
  Payload payload = Payload::elided;
  std::optional<SteadyOptions> steady;  ///< instead of requests
  std::optional<StepReports> steps;     ///< what the log of the run wants to know of steps; none: there is no log
};

/// How the coordinator tells how far a run is.
enum class ProgressMode {
  automatic,  ///< line where stderr is a terminal, else log
  line,       ///< one line on stderr, written over
  log,        ///< lines at intervals, of level info
  off,
};

/// Equal on all ranks.
struct ServeOptions {
  ServingConfig serving;
  pool::PoolConfig pool;
  std::string checkpoint;        ///< model directory
  bool model_from_pool = false;  ///< the cache ranks read the files, once; the others load from them
  moe::ComputeType type = moe::ComputeType::f32;
  int max_concurrency = 0;  ///< requests in flight; 0: no limit
  double deadline_s = 120;
  std::vector<Injection> injections;    ///< in order of their start
  std::optional<ModelledRun> modelled;  ///< none: on the wall clock
  /// Told of each request when it has ended, on rank 0 only; also of those that an error of the run ends. May be empty.
  std::function<void(const ServedRequest&)> on_end;
  ProgressMode progress = ProgressMode::automatic;
};

/// On rank 0 only.
struct ServeOutcome {
  std::vector<ServedRequest> requests;  ///< by id
  std::vector<SeriesTable> series;      ///< what happened over time (RunSeries)
  std::vector<Iteration> iterations;    ///< of the decode instances
  PoolFigures pool;
  GuessCounts guesses;                       ///< of all decode dies
  RunTime last{};                            ///< of the last event on a modelled clock
  WallTime wall;                             ///< that serving took on the hosts
  std::map<std::string, double> modelled_s;  ///< where the steps' modelled time went, s (ModelledTotals)
  std::optional<SteadyFigures> steady;
  std::optional<PayloadFigures> payload;  ///< on a modelled clock, where it is carried
  std::vector<DieSteps> die_steps;
};

/// Longest prompt + output that the deployment takes, tokens.
int max_request_length(const ServingConfig& serving, const moe::ModelConfig& model);

/// The ranks of a world in their roles, and the model that they hold: what several runs in one job share.
class Deployment {
 public:
  /// Local. `world` outlives it.
  explicit Deployment(const Communicator& world);
  ~Deployment();
  Deployment(const Deployment&) = delete;
  Deployment& operator=(const Deployment&) = delete;

  /// Serves `requests` (which matter on rank 0 only) on the wall clock, or on a modelled one. The first run reads the
  /// model and warms it up; later ones keep it, but one from the pool, and where they have other microbatches or guesses
  /// (serving.mtp), which read it anew. Everything else is made anew: the pool begins
  /// empty, unless it has files. Collective over `world`, whose size is world_size().
  /// @param options of later runs have the roles, the model and the clock of the first
  /// @param steps rank 0's log of steps, where options.modelled->steps asks for it
  /// @throws AgreedError for a wrong world size or a bad checkpoint; TimeoutError when a peer goes silent.
  ServeOutcome serve(const ServeOptions& options, std::vector<Request> requests, StepLog* steps = nullptr);

 private:
  struct Standing;

  ServeOutcome serve_with_model(const ServeOptions& options, std::vector<Request> requests, StepLog* steps);

  const Communicator& world_;
  std::unique_ptr<Standing> standing_;  ///< what the first run with a model has left
};

/// One run, as Deployment::serve(). Collective.
ServeOutcome serve(const Communicator& world, const ServeOptions& options, std::vector<Request> requests,
                   StepLog* steps = nullptr);

}  // namespace supernode::serving
