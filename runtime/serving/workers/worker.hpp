#pragma once
// The loops of the ranks that are not the coordinator.

#include <string>
#include <vector>

#include "memory_pool/client.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/message_port.hpp"
#include "runtime/serving/injection.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/workers/die_group.hpp"
#include "runtime/serving/workers/instance_silent.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

/// What a worker works with. Borrowed; all outlive the worker's loop.
struct WorkerContext {
  const ServingConfig* config = nullptr;
  int rank = 0;
  Part part;
  MessagePort* control = nullptr;   ///< with the coordinator, rank 0
  MessagePort* transfer = nullptr;  ///< KV from prefill to decode dies
  StepEngine* engine = nullptr;     ///< collective over the dies of this rank's instance
  DieGroup* dies = nullptr;         ///< the same dies; null: no prompt is split
  pool::Pool* pool = nullptr;       ///< null without cache ranks
  std::string model_name;           ///< part of the cache keys
  double deadline_s = 120;
  WallTime (*now)() = wall_now;
};

/// Adds to `counts` how evenly this rank's engine used its experts, if it looks at that.
inline void count_balance(const WorkerContext& context, emulation::Stage stage, WorkerStatistics& counts) {
  BalanceFigures figures = context.engine->expert_balance();
  if (figures == BalanceFigures{}) return;
  counts.balance.emplace(InstanceId{stage, context.part.instance}, std::move(figures));
}

/// A step of the engine. @throws InstanceSilent where it throws TimeoutError
StepOutcome step_together(StepEngine& engine, std::span<const StepWork> works, RunTime start);

/// Serves prefill steps until told to stop: looks the prefixes of prompts that begin up, loads hits, computes the pieces
/// that are ordered, draws the first token behind the last one, sends KV on and stores new blocks after each. All dies of
/// an instance run it together.
/// @throws TimeoutError when the coordinator is silent for longer than the deadline; InstanceSilent; EnvironmentError
/// for a message that is malformed or not for a prefill die.
void run_prefill_worker(const WorkerContext& context);

/// Serves decode iterations until told to stop; makes room for new requests and takes in their KV between them, and frees
/// those that it is told have ended. All dies of an instance run it together. @throws as above.
void run_decode_worker(const WorkerContext& context);

/// Waits for the order to stop, and takes no other: a die whose instance is lost, as the coordinator finds out by itself,
/// must not end the job, since other instances go on. @throws TimeoutError when the coordinator is silent
void run_lost_die(const WorkerContext& context);

/// Waits for the order to stop: on the modelled clock the coordinator keeps the pool's directory, and without payload
/// there is nothing to hold.
void run_idle_cache_worker(const WorkerContext& context);

/// Serves the pool's clients until told to stop, and carries out the injected failures of its own cache rank when they
/// are due. @pre context.pool, and this rank is an owner. @param injections in order of their start
void run_cache_worker(const WorkerContext& context, const std::vector<Injection>& injections);

}  // namespace supernode::serving
