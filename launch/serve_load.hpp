#pragma once
// The options of `serve` that say what is asked of the deployment: which requests, when, and how long they are.

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/options.hpp"
#include "runtime/serving/load/trace.hpp"
#include "runtime/serving/load/workload.hpp"

namespace supernode::launch {

class LoadOptions {
 public:
  void describe(OptionTable& table);

  std::uint64_t seed() const { return workload_.seed; }
  /// Rows of the trace without output that were left out, or got one token; known once the trace has been read.
  std::uint64_t without_output() const { return without_output_; }

  /// The requests of a run. Local; reads the trace.
  /// @param vocabulary of the model @param max_length longest prompt + output, tokens
  /// @throws UsageError for a file that is missing or wrong, and for requests that are too long.
  std::vector<serving::Request> make(int vocabulary, int max_length);

 private:
  serving::Trace read_trace();

  std::string trace_, time_unit_ = "ms", zero_output_ = "skip";
  std::uint64_t max_requests_ = 0, without_output_ = 0;
  serving::TraceOptions trace_options_;
  serving::WorkloadOptions workload_;
};

}  // namespace supernode::launch
