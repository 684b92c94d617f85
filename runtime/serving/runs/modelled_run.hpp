#pragma once
// What runs on the modelled clock have in common, whatever computes.

#include "memory_pool/pool.hpp"
#include "runtime/serving/fleet/modelled_fleet.hpp"
#include "runtime/serving/server.hpp"
#include "runtime/serving/workers/modelled_engine.hpp"

namespace supernode::serving {

/// Rank 0's part of the run. @pre options.modelled @param shared_pool null where the run has none (has_pool)
/// @param steps as in serve()
ServeOutcome coordinate_modelled(const Communicator& control, const ServeOptions& options, pool::Pool* shared_pool,
                                 std::vector<Request> requests, StepLog* steps);

/// Puts what the dies counted of their experts' balance into a run's outcome, figures and series.
void add_balance(const WorkerStatistics& counts, ServeOutcome& outcome);

/// Where payload is carried: blocks of the directory that an owner of the real pool can hold in any case.
/// @pre options.modelled, and has_pool() @throws UsageError when there are none
std::int64_t blocks_really_held(const ServeOptions& options);

/// What is priced on the dies of this rank's instance. @pre a prefill or decode rank
ModelledInstance modelled_instance(const ServeOptions& options, const Part& part);

/// How the first die of an instance tells the coordinator of steps; nothing where nobody wants to know. A report leaves
/// before what the die itself reports of the step. @param control outlives it @param began when this rank was let go
std::optional<StepReporting> step_reporting(const ServeOptions& options, MessagePort& control, WallTime began);

}  // namespace supernode::serving
