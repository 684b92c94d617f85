#pragma once
// What a run of `serve` leaves behind: how it is described in its results, and its raw rows.

#include <vector>

#include "launch/command.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::launch {

/// What the run was on, for the figures. @param dies_per_npu of the emulated machine
serving::RunDescription describe_run(const serving::ServeOptions& options, const serving::ServeOutcome& outcome,
                                     int dies_per_npu);

/// One row a request: arrival, queue, pool, prefill, handover, decode, exchange, e2e in ms, then token counts.
Samples request_samples(const std::vector<serving::ServedRequest>& requests);

}  // namespace supernode::launch
