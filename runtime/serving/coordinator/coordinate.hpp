#pragma once
// The coordinator's loop.

#include <functional>

#include "runtime/serving/coordinator/fleet.hpp"
#include "runtime/serving/coordinator/run_watch.hpp"
#include "runtime/serving/coordinator/scheduler.hpp"

namespace supernode::serving {

/// Hands the fleet's events to the scheduler and its commands to the fleet, until all requests have ended and nothing
/// is under way; then stops the fleet. All KV and slots are free then, or it panics. @param over asked after each event;
/// once it is true nothing more is ordered, and requests that have not ended are abandoned @param watch told of each
/// event, when given @returns what the workers counted. @throws what the two throw; every request that has not ended
/// has then failed with that error, at the time of the last event.
WorkerStatistics coordinate(Scheduler& scheduler, Fleet& fleet, const std::function<bool()>& over = {},
                            RunWatch* watch = nullptr);

}  // namespace supernode::serving
