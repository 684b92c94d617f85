#include "launch/serve_load.hpp"

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/log.hpp"

namespace supernode::launch {

void LoadOptions::describe(OptionTable& t) {
  t.add("serve", "trace", trace_,
        "Mooncake (JSON lines), Azure or BurstGPT (CSV) trace: a file, or a name in configs/traces");
  t.add("serve", "max_requests", max_requests_, "requests taken from the trace's start; 0: all").range(0, 1e9);
  t.add("serve", "trace_block_tokens", trace_options_.block_tokens, "prompt tokens of one hash id of the trace")
      .range(1, 1 << 20);
  t.add("serve", "trace_time_unit", time_unit_, "what the timestamps of a Mooncake trace count")
      .choices({"ms", "s", "us"});
  t.add("serve", "zero_output", zero_output_, "requests of the trace without output: left out, or raised to one token")
      .choices({"skip", "one"});
  t.add("serve", "time_scale", workload_.time_scale, "arrival times are multiplied by this; 0: all at once")
      .range(0, 1e9);
  t.add("serve", "length_scale", workload_.length_scale, "prompt, output and block lengths are multiplied by this")
      .range(1e-6, 1e3);
  t.add("serve", "request_rate", workload_.request_rate,
        "requests/s of a Poisson process that replaces the trace's arrivals; 0: as traced, inf: all at once")
      .range(0, 1e9)
      .or_infinity();
  t.add("serve", "seed", workload_.seed, "of prompt tokens, arrivals and sampling");
  t.add("serve", "temperature", workload_.sampler.temperature, "0: greedy").range(0, 1e3);
  t.add("serve", "top_p", workload_.sampler.top_p, "nucleus sampling, (0, 1]").range(1e-9, 1);
}

std::vector<serving::Request> LoadOptions::make(int vocabulary, int max_length) {
  serving::WorkloadOptions workload = workload_;
  workload.sampler.seed = workload_.seed;
  return serving::make_workload(read_trace(), workload, vocabulary, max_length);
}

serving::Trace LoadOptions::read_trace() {
  if (trace_.empty()) throw UsageError("--trace is missing: name a trace file");
  const std::string path = config_path("traces", trace_, ".jsonl");
  trace_options_.max_requests = max_requests_;
  trace_options_.time_unit_s = serving::parse_time_unit(time_unit_);
  trace_options_.zero_output = serving::parse_zero_output(zero_output_);
  serving::Trace trace = serving::parse_trace(read_file(path), path, trace_options_);
  without_output_ = trace.without_output;
  if (without_output_ > 0)
    log(LogLevel::warning, "{}: {} requests without output {}", path, without_output_,
        trace_options_.zero_output == serving::ZeroOutput::skip ? "are left out" : "get one token");
  return trace;
}

}  // namespace supernode::launch
