#pragma once
// The decode iterations of a run, and whether they kept an objective. Pure.

#include <string>
#include <vector>

#include "runtime/core/json.hpp"

namespace supernode::serving {

/// One iteration of a decode instance, as the coordinator sees it: from the order to the last die's report.
struct Iteration {
  double ms = 0;
  int batch = 0;                  ///< requests on its fullest die
  double tokens_per_request = 1;  ///< that it gave, on average
};

/// Sets in `results`:
///   mean_step_ms, median_step_ms, std_step_ms, p99_step_ms   (add_latency)
///   decode_steps     count; mean_batch; tokens_per_request, over the iterations by their batches
///   tpot_objective   with an objective only: objective_ms; p99_step_ms_per_token, the 99th percentile / the mean tokens
///                    per request; kept; batch, the mean of the second half of the iterations, which no longer learn
/// @param objective_ms of the time per output token; 0: none
void add_iterations(Json& results, const std::vector<Iteration>& iterations, double objective_ms,
                    const std::vector<double>& percentiles);

/// The same for people.
std::string iterations_text(const Json& results, const std::vector<double>& percentiles);

}  // namespace supernode::serving
