#pragma once
// From the records of a run to the figures that users of serving benchmarks know. Pure.
//
// TTFT = first token - arrival. TPOT = (E2E - TTFT) / (n - 1) for n > 1 output tokens; a request of one token has none.
// ITL: time between tokens of a request. The six parts of a request are disjoint and add up to its end-to-end time
// exactly (whole nanoseconds):
//   queue     arrival until the first piece of its prompt is ordered
//   pool      lookup of the prefix and loading of hits
//   prefill   the rest until the coordinator has the first token, without its share of the exchange
//   handover  KV to the decode die, and the wait for the next iteration
//   decode    iterations that it was in, without exchange
//   exchange  token dispatch and combine: of a prefill step its share by computed tokens, of an iteration the whole of
//             the slowest die, since all wait for it

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/core/json.hpp"
#include "runtime/serving/load/iterations.hpp"
#include "runtime/serving/load/payload.hpp"
#include "runtime/serving/load/request_record.hpp"
#include "runtime/serving/load/steady.hpp"
#include "runtime/serving/load/step_times.hpp"

namespace supernode::serving {

/// What the pool's clients counted, summed over the prefill dies.
struct PoolFigures {
  std::uint64_t lookups = 0;  ///< blocks asked for
  std::uint64_t hits = 0;     ///< blocks that were there
  std::map<std::string, std::uint64_t> miss_reasons;
  std::uint64_t stored_blocks = 0, dropped_blocks = 0;
  std::uint64_t known_blocks = 0;                       ///< offered for storing, and already there
  std::map<std::string, std::uint64_t> drop_reasons;    ///< of dropped_blocks
  std::uint64_t model_bytes = 0, model_bytes_read = 0;  ///< with a model from the pool: its files, and what was read
};

/// Speculation: tokens that were guessed and verified, and those that were right.
struct GuessCounts {
  std::uint64_t drafted = 0, accepted = 0;
  GuessCounts& operator+=(const GuessCounts& other) {
    drafted += other.drafted;
    accepted += other.accepted;
    return *this;
  }
  friend bool operator==(const GuessCounts&, const GuessCounts&) = default;
};

struct MetricsOptions {
  std::vector<double> percentiles{99};       ///< 0-100
  std::map<std::string, double> goodput_ms;  ///< objective in ms by "ttft", "tpot", "e2el"; all must hold
  bool save_detailed = false;
  bool save_tokens = false;  ///< with save_detailed: prompt and output token ids too
};

/// "ttft:2000" and the like into goodput_ms. @throws UsageError naming the item.
std::map<std::string, double> parse_goodput(const std::vector<std::string>& items);

/// What a run was on.
struct RunDescription {
  std::string clock = "wall";  ///< or "modelled"
  int dies = 0;                ///< prefill and decode dies together
  int dies_per_npu = 1;        ///< of the emulated machine
  GuessCounts guesses = {};    ///< of all decode dies
  std::vector<DieSteps> die_steps = {};
  std::vector<Iteration> iterations = {};  ///< of all decode instances
  double tpot_objective_ms = 0;            ///< that admission kept to; 0: none
  // On a modelled clock:
  std::string machine = {};                       ///< the file
  WallTime wall = {};                             ///< that serving took on the hosts
  std::map<std::string, double> modelled_s = {};  ///< where the modelled time of steps went, s, by "stage: part"
  std::optional<SteadyOptions> steady_options = {};
  SteadyFigures steady = {};
  double steady_s = 0;                         ///< modelled length of the run, requests that did not end included
  int steady_dies = 0;                         ///< of the stage that was kept full
  std::optional<PayloadFigures> payload = {};  ///< where it is carried
  double formula_step_ms = 0;                  ///< what the uniform cost function says of the same deployment and batch
};

/// A request as a row of `requests` in the results; of one that failed its id and why.
Json request_row(const ServedRequest& served, const MetricsOptions& options);

/// The `results` object of `serve`. A latency that no request has is null. `goodput` counts requests that meet all
/// objectives, `goodput_by` those that meet each one, per second.
/// @param requests all that were served, in the order in which rows are wanted
Json serving_results(const std::vector<ServedRequest>& requests, const PoolFigures& pool, const MetricsOptions& options,
                     const RunDescription& run);

/// Sets `slowest_die` of results from their `dies`; null when none can be named. Without `dies` it does nothing.
void name_slowest_die(Json& results);

/// The "Serving Benchmark Result" block, from serving_results(); "-" for what is null.
std::string serving_text(const Json& results, const MetricsOptions& options);

}  // namespace supernode::serving
