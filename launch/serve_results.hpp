#pragma once
// What a run of `serve` leaves behind: how it is described in its results, and its raw rows.

#include <string>
#include <vector>

#include "launch/command.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::launch {

/// What the run was on, for the figures. @param dies_per_npu of the emulated machine
serving::RunDescription describe_run(const serving::ServeOptions& options, const serving::ServeOutcome& outcome,
                                     int dies_per_npu);

/// `FOLDERrequests`: one row a request, its columns named by an attribute: arrival, parts and end-to-end time in ms, then
/// token counts.
Samples request_samples(const std::vector<serving::ServedRequest>& requests, const std::string& folder);

/// `FOLDERseries/...`: what happened over time.
std::vector<Samples> series_samples(const std::vector<serving::SeriesTable>& tables, const std::string& folder);

/// `FOLDERrepeats/values`: one row a repeat, a column for each number at the top of its results that all have.
Samples repeat_samples(const std::vector<Json>& repeats, const std::string& folder);

}  // namespace supernode::launch
