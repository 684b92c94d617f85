#pragma once
// The results of several runs of one job, side by side: repeats of a run, runs with something switched off, runs at
// multiples of the load. Pure.

#include <string>
#include <vector>

#include "runtime/core/json.hpp"

namespace supernode::serving {

/// The results of a run that was repeated. Of one run: its results as they are. Of more: every number is the mean over
/// the runs that have it, `ci95` holds the half-widths of the 95 % intervals of those means (Student's t) for the
/// figures at the top, and `repeats` the results of each run. `requests` and `failures` are in `repeats` only.
/// `slowest_die` is that of the means of `dies`.
Json combine_repeats(std::vector<Json> runs);

/// The intervals as text; "" of a single run.
std::string intervals_text(const Json& results);

struct NamedResults {
  std::string name;
  Json results;
};

/// [{"without", FIGURES, "difference", "ratio"}]: figures of the run without that part; without - with, and without /
/// with. FIGURES: mean_ttft_ms, mean_tpot_ms, mean_itl_ms, output_throughput; of a steady load those of `steady`, too,
/// as steady_X. Null where one of the two has none, or divides by 0. With repeats each entry has `ci95`.
Json ablation_json(const Json& with_all, const std::vector<NamedResults>& without);
/// A table: as configured, and without each part with its ratio.
std::string ablation_text(const Json& with_all, const Json& ablation);

struct LoadPoint {
  double factor = 1;
  Json results;
};

/// [{"load_factor", "completed", "failed", "request_throughput", "output_throughput", "goodput", "goodput_by", "p99_X_ms"}]
/// @pre results have the percentile 99
Json peaks_json(const std::vector<LoadPoint>& points);
std::string peaks_text(const Json& peaks);

}  // namespace supernode::serving
