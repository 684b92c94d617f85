#pragma once
// The options of `serve` that say what is asked of the deployment: which requests, when, and how long they are.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/options.hpp"
#include "runtime/serving/load/steady.hpp"
#include "runtime/serving/load/trace.hpp"
#include "runtime/serving/load/workload.hpp"

namespace supernode::launch {

/// Which of the runs of a job is meant: each has a seed of its own, and they may have more or less to do in a time.
struct RunOfJob {
  std::uint64_t seed_offset = 0;  ///< added to --seed
  double load_factor = 1;         ///< the same requests so many times as fast
};

class LoadOptions {
 public:
  void describe(OptionTable& table);

  std::uint64_t seed() const { return workload_.seed; }
  /// Rows of the trace without output that were left out, or got one token; known once the trace has been read.
  std::uint64_t without_output() const { return without_output_; }
  /// Sets what prompts of a steady prefill load have in common.
  void share_prefixes(serving::SteadyOptions& steady) const;
  /// All requests come in one moment, so that nothing comes sooner at a multiple of the rate.
  bool at_once(bool generated) const;

  /// The requests of a run. Local; reads the trace.
  /// @param generated whether there is a trace, or lengths and prefixes are drawn (`--workload generated`)
  /// @param vocabulary of the model @param max_length longest prompt + output, tokens
  /// @throws UsageError for a file that is missing or wrong, and for requests that are too long.
  std::vector<serving::Request> make(bool generated, const RunOfJob& run, int vocabulary, int max_length);

 private:
  const serving::Trace& read_trace();
  serving::Trace draw_trace(std::uint64_t seed, int max_length) const;

  std::string trace_, time_unit_ = "ms", zero_output_ = "skip";
  std::uint64_t max_requests_ = 0, without_output_ = 0;
  serving::TraceOptions trace_options_;
  std::optional<serving::Trace> read_;  ///< the trace, once it has been read
  serving::WorkloadOptions workload_;
  std::uint64_t num_prompts_ = 100;
  std::string prompt_lengths_ = "fixed:1024", output_lengths_ = "fixed:128";
  double prefix_share_ = 0;
  int prefix_groups_ = 1;
};

}  // namespace supernode::launch
