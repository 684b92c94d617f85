#pragma once
// The part of a rank that is not the coordinator, whatever its engine.

#include "runtime/core/log.hpp"
#include "runtime/serving/server.hpp"
#include "runtime/serving/workers/worker.hpp"

namespace supernode::serving {

/// What every worker works with; engine and pool are left to the caller. All arguments outlive it.
inline WorkerContext worker_context(const ServeOptions& options, const Part& part, int rank, MessagePort& control,
                                    MessagePort& transfer, std::string model_name) {
  WorkerContext context;
  context.config = &options.serving;
  context.rank = rank;
  context.part = part;
  context.control = &control;
  context.transfer = &transfer;
  context.model_name = std::move(model_name);
  context.deadline_s = options.deadline_s;
  return context;
}

/// The loop of a prefill or decode die. @pre context.engine
inline void run_die(const WorkerContext& context) {
  if (context.part.role == Role::prefill)
    run_prefill_worker(context);
  else
    run_decode_worker(context);
}

/// The same on the wall clock. When the other dies of its instance fall silent, it steps back and waits for the end.
inline void run_die_on_wall_clock(const WorkerContext& context) {
  try {
    run_die(context);
  } catch (const InstanceSilent& silence) {
    log(LogLevel::info, "{}", silence.what());
    run_lost_die(context);
  }
}

}  // namespace supernode::serving
