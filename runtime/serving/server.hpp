#pragma once
// A serving run: every rank of the world has its role until the last request is done.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "memory_pool/config.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/serving/injection.hpp"
#include "runtime/serving/load/metrics.hpp"
#include "runtime/serving/load/steady.hpp"
#include "runtime/serving/modelled_config.hpp"
#include "runtime/serving/serving_config.hpp"

namespace supernode::serving {

/// A run on a modelled machine. Equal on all ranks.
struct ModelledRun {
  emulation::Machine machine;
  emulation::ModelShape model;
  std::string model_name;  ///< part of the keys of context blocks
  int vocabulary = 0;
  std::uint64_t seed = 0;  ///< of drawn tokens and routing
  /// Of the states of a model that really computes: a token, and the end behind a block (StepEngine).
  std::size_t real_bytes_per_token = 0, real_end_bytes = 0;
  ModelledConfig config;
  Compute compute = Compute::shape;
  std::optional<SteadyOptions> steady;  ///< instead of requests
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
};

/// On rank 0 only.
struct ServeOutcome {
  std::vector<ServedRequest> requests;  ///< by id
  PoolFigures pool;
  GuessCounts guesses;                       ///< of all decode dies
  RunTime last{};                            ///< of the last event on a modelled clock
  WallTime wall;                             ///< that serving took on the hosts
  std::map<std::string, double> modelled_s;  ///< where the steps' modelled time went, s (ModelledTotals)
  std::optional<SteadyFigures> steady;
};

/// Longest prompt + output that the deployment takes, tokens.
int max_request_length(const ServingConfig& serving, const moe::ModelConfig& model);

/// Serves `requests` (which matter on rank 0 only) on the wall clock, or on a modelled one. Collective over `world`, whose size is
/// world_size().
/// @throws AgreedError for a wrong world size or a bad checkpoint; TimeoutError when a peer goes silent.
ServeOutcome serve(const Communicator& world, const ServeOptions& options, std::vector<Request> requests);

}  // namespace supernode::serving
