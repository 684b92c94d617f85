#pragma once
// From the records of a run to the figures that users of serving benchmarks know. Pure.
//
// TTFT = first token - arrival. TPOT = (E2E - TTFT) / (n - 1) for n > 1 output tokens. ITL: time between tokens of a
// request. The six parts of a request are disjoint and add up to its end-to-end time exactly (whole nanoseconds):
//   queue     arrival until its prefill batch is ordered
//   pool      lookup of the prefix and loading of hits
//   prefill   the rest until the coordinator has the first token, without exchange
//   handover  KV to the decode die, and the wait for the next iteration
//   decode    iterations that it was in, without exchange
//   exchange  token dispatch and combine within prefill and decode (the slowest die's, since all wait for it)

#include <map>
#include <string>
#include <vector>

#include "runtime/core/json.hpp"
#include "runtime/serving/coordinator/scheduler.hpp"

namespace supernode::serving {

struct PartTimes {
  Nanoseconds queue = 0, pool = 0, prefill = 0, handover = 0, decode = 0, exchange = 0;
  Nanoseconds sum() const { return queue + pool + prefill + handover + decode + exchange; }
};

/// @pre record.done
PartTimes parts_of(const RequestRecord& record);

/// What the pool's clients counted, summed over the prefill dies.
struct PoolFigures {
  std::uint64_t lookups = 0;  ///< blocks asked for
  std::uint64_t hits = 0;     ///< blocks that were there
  std::map<std::string, std::uint64_t> miss_reasons;
  std::uint64_t stored_blocks = 0, dropped_blocks = 0;
  std::uint64_t model_bytes = 0, model_bytes_read = 0;  ///< with a model from the pool: its files, and what was read
};

struct MetricsOptions {
  std::vector<double> percentiles{99};       ///< 0-100
  std::map<std::string, double> goodput_ms;  ///< objective in ms by "ttft", "tpot", "e2el"; all must hold
  bool save_detailed = false;
  bool save_tokens = false;  ///< with save_detailed: prompt and output token ids too
};

/// "ttft:2000" and the like into goodput_ms. @throws UsageError naming the item.
std::map<std::string, double> parse_goodput(const std::vector<std::string>& items);

/// The `results` object of `serve`. @param clock "wall" or "modelled" @param dies prefill and decode dies together; two
/// are an NPU
Json serving_results(const std::vector<Request>& requests, const std::vector<RequestRecord>& records,
                     const PoolFigures& pool, const MetricsOptions& options, const std::string& clock, int dies);

/// The "Serving Benchmark Result" block, from serving_results().
std::string serving_text(const Json& results, const MetricsOptions& options);

}  // namespace supernode::serving
