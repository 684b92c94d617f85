#include "launch/serve_load.hpp"

#include <cmath>
#include <utility>

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/log.hpp"
#include "runtime/serving/load/generated.hpp"

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
        "requests/s of a random process that replaces the trace's arrivals; 0: as traced, inf: all at once")
      .range(0, 1e9)
      .or_infinity();
  t.add("serve", "burstiness", workload_.burstiness,
        "of the process of --request-rate, whose gaps are gamma-distributed with this shape: 1: Poisson, less: bursts")
      .range(0.01, 1000);
  t.add("serve", "num_prompts", num_prompts_, "generated: requests").range(1, 1e8);
  t.add("serve", "prompt_lengths", prompt_lengths_,
        "generated: tokens of prompts: fixed:N, uniform:A:B, lognormal:MEDIAN:SIGMA, or a CSV file of lengths");
  t.add("serve", "output_lengths", output_lengths_, "generated: tokens of answers, likewise");
  t.add("serve", "prefix_share", prefix_share_,
        "generated, steady-prefill: share of each prompt's tokens that its group has in common")
      .range(0, 1);
  t.add("serve", "prefix_groups", prefix_groups_, "generated, steady-prefill: groups of requests with a common prefix")
      .range(1, 1e6);
  t.add("serve", "seed", workload_.seed, "of prompt tokens, arrivals and sampling");
  t.add("serve", "temperature", workload_.sampler.temperature, "0: greedy").range(0, 1e3);
  t.add("serve", "top_p", workload_.sampler.top_p, "nucleus sampling, (0, 1]").range(1e-9, 1);
  t.add("serve", "stop_tokens", workload_.stop, "token ids that end a request when they are drawn");
  t.add("serve", "cancel_share", workload_.cancel_share, "share of the requests that are cancelled").range(0, 1);
  t.add("serve", "cancel_within", workload_.cancel_within_s,
        "cancelled requests are at a random moment of this span from their arrival on, s")
      .range(0, 1e6);
}

bool LoadOptions::at_once(bool generated) const {
  if (workload_.request_rate > 0) return std::isinf(workload_.request_rate);
  return generated || workload_.time_scale == 0;
}

void LoadOptions::share_prefixes(serving::SteadyOptions& steady) const {
  steady.prefix_share = prefix_share_;
  steady.prefix_groups = prefix_groups_;
}

std::vector<serving::Request> LoadOptions::make(bool generated, const RunOfJob& run, int vocabulary, int max_length) {
  serving::WorkloadOptions workload = workload_;
  workload.seed += run.seed_offset;
  workload.sampler.seed = workload.seed;
  workload.load_factor = run.load_factor;
  if (!generated) return serving::make_workload(read_trace(), workload, vocabulary, max_length);
  workload.length_scale = 1;  // lengths are as they were asked for
  return serving::make_workload(draw_trace(workload.seed, max_length), workload, vocabulary, max_length);
}

serving::Trace LoadOptions::draw_trace(std::uint64_t seed, int max_length) const {
  const serving::GeneratedOptions options{
      .requests = num_prompts_,
      .prompt = serving::Lengths(prompt_lengths_, serving::LengthOf::prompt, "--prompt-lengths"),
      .output = serving::Lengths(output_lengths_, serving::LengthOf::output, "--output-lengths"),
      .prefix_share = prefix_share_,
      .prefix_groups = prefix_groups_,
      .seed = seed,
      .max_length = max_length};
  serving::GeneratedTrace generated = serving::generate(options);
  if (generated.cut > 0)
    log(LogLevel::warning, "{} of {} generated requests are cut to {} tokens, the longest that this deployment takes",
        generated.cut, num_prompts_, max_length);
  return std::move(generated.trace);
}

const serving::Trace& LoadOptions::read_trace() {
  if (read_) return *read_;
  if (trace_.empty()) throw UsageError("--trace is missing: name a trace file");
  const std::string path = config_path("traces", trace_, ".jsonl");
  trace_options_.max_requests = max_requests_;
  trace_options_.time_unit_s = serving::parse_time_unit(time_unit_);
  trace_options_.zero_output = serving::parse_zero_output(zero_output_);
  read_ = serving::parse_trace(read_file(path), path, trace_options_);
  without_output_ = read_->without_output;
  if (without_output_ > 0)
    log(LogLevel::warning, "{}: {} requests without output {}", path, without_output_,
        trace_options_.zero_output == serving::ZeroOutput::skip ? "are left out" : "get one token");
  return *read_;
}

}  // namespace supernode::launch
