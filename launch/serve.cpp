// supernode serve: replays a trace of requests on a deployment of coordinator, prefill, decode and cache ranks.
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "collectives/rule_file.hpp"
#include "collectives/token_exchange.hpp"
#include "launch/commands.hpp"
#include "launch/modelled_options.hpp"
#include "moe/checkpoint.hpp"
#include "moe/sequence_state.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/emulation/machine/machine.hpp"
#include "runtime/serving/load/metrics.hpp"
#include "runtime/serving/load/workload.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::launch {
namespace {

class ServeCommand : public Command {
 public:
  void describe(OptionTable& t) override {
    t.add("serve", "model", model_, "checkpoint directory");
    t.add("serve", "trace", trace_,
          "Mooncake (JSON lines), Azure or BurstGPT (CSV) trace: a file, or a name in configs/traces");
    t.add("serve", "max_requests", max_requests_, "requests taken from the trace's start; 0: all").range(0, 1e9);
    t.add("serve", "trace_block_tokens", trace_options_.block_tokens, "prompt tokens of one hash id of the trace")
        .range(1, 1 << 20);
    t.add("serve", "trace_time_unit", time_unit_, "what the timestamps of a Mooncake trace count")
        .choices({"ms", "s", "us"});
    t.add("serve", "zero_output", zero_output_,
          "requests of the trace without output: left out, or raised to one token")
        .choices({"skip", "one"});
    t.add("serve", "time_scale", workload_.time_scale, "arrival times are multiplied by this; 0: all at once")
        .range(0, 1e9);
    t.add("serve", "length_scale", workload_.length_scale, "prompt, output and block lengths are multiplied by this")
        .range(1e-6, 1e3);
    t.add("serve", "request_rate", workload_.request_rate,
          "requests/s of a Poisson process that replaces the trace's arrivals; 0: as traced, inf: all at once")
        .range(0, 1e9)
        .or_infinity();
    t.add("serve", "max_concurrency", max_concurrency_, "requests in flight; 0: no limit").range(0, 1e9);
    t.add("serve", "seed", workload_.seed, "of prompt tokens, arrivals and sampling");
    modelled_.describe(t);
    t.add("serve", "dtype", dtype_, "type of the model's matrices").choices({"f32", "bf16", "int8"});
    t.add("serve", "temperature", workload_.sampler.temperature, "0: greedy").range(0, 1e3);
    t.add("serve", "top_p", workload_.sampler.top_p, "nucleus sampling, (0, 1]").range(1e-9, 1);
    t.add("serve", "stop_tokens", workload_.stop, "token ids that end a request when they are drawn");
    t.add("serve", "cancel_share", workload_.cancel_share, "share of the requests that are cancelled").range(0, 1);
    t.add("serve", "cancel_within", workload_.cancel_within_s,
          "cancelled requests are at a random moment of this span from their arrival on, s")
        .range(0, 1e6);
    t.add("serve", "goodput", goodput_, "objectives in ms that a good request meets, as ttft:2000,tpot:50,e2el:9000");
    t.add("serve", "metric_percentiles", metrics_.percentiles, "percentiles of the latencies, as 50,99,99.9");
    t.add("serve", "save_detailed", metrics_.save_detailed, "each request in the JSON results");
    t.add("serve", "save_tokens", metrics_.save_tokens, "with --save-detailed: prompt and output token ids too");
    t.add("serve", "model_from_pool", options_.model_from_pool,
          "the cache ranks read the checkpoint, once; all others load it from their memory");
    t.add("serve", "inject", inject_,
          "failures: owner_stall or owner_loss, each [:CACHE RANK][@START][+SECONDS], as owner_loss:0@2.5+20");
    t.add("serve", "dry_run", dry_run_, "print the plan (ranks per role, memory per rank) and stop");
    serving::describe(t, options_.serving);
    pool::describe(t, options_.pool);
  }

  int run(const Context& context) override {
    const Communicator& world = *context.world;
    options_.checkpoint = find_model(model_);
    options_.type = moe::parse_compute_type(dtype_);
    workload_.sampler.seed = workload_.seed;
    options_.max_concurrency = max_concurrency_;
    options_.deadline_s = context.run.deadline;
    const auto rules = collectives::load_rules(world, options_.serving.selection);
    options_.injections =
        collectively(world, [&] { return serving::parse_injections(inject_, options_.serving.cache_ranks); });
    options_.modelled = collectively(world, [&] {
      const moe::ModelConfig model = modelled_.chosen() ? read_config() : moe::ModelConfig{};
      return modelled_.make(options_.serving, model, dtype_, workload_.seed);
    });
    // Whatever is wrong with options, files or sizes is found by rank 0 before anyone loads a model.
    Prepared prepared;
    on_root(world, [&] { prepared = prepare(world.size(), rules); });
    if (dry_run_) {
      report(context, "serve", Json{{"plan", prepared.plan}}, prepared.plan);
      return static_cast<int>(ExitCode::good);
    }
    return finish(context, serving::serve(world, options_, std::move(prepared.requests)));
  }

 private:
  /// What a run begins with; on rank 0 only.
  struct Prepared {
    std::vector<serving::Request> requests;
    std::string plan;  ///< of a dry run, which has no requests
  };

  /// @param rules by which "auto" chooses in the run
  Prepared prepare(int world_size, std::shared_ptr<const collectives::SelectionRules> rules) {
    metrics_.goodput_ms = serving::parse_goodput(goodput_);
    for (const double p : metrics_.percentiles)
      if (p < 0 || p > 100) throw UsageError(fmt::format("--metric-percentiles: {} is outside [0, 100]", p));
    const moe::ModelConfig model = read_model();
    if (dry_run_) return {{}, plan_text(model, std::move(rules))};
    serving::check_world_size(options_.serving, world_size);
    dies_per_npu_ = options_.modelled ? options_.modelled->machine.dies_per_npu
                                      : emulation::load_machine("cloudmatrix384").dies_per_npu;
    if (modelled_.steady()) return {};
    return {serving::make_workload(read_trace(), workload_, model.vocab_size,
                                   serving::max_request_length(options_.serving, model)),
            {}};
  }

  /// Local; every rank reads it.
  moe::ModelConfig read_config() const {
    return modelled_.without_weights() ? moe::load_model_config(options_.checkpoint)
                                       : moe::Checkpoint(options_.checkpoint).config();
  }

  moe::ModelConfig read_model() const {
    if (modelled_.without_weights()) return read_config();
    const moe::Checkpoint checkpoint(options_.checkpoint);
    if (!checkpoint.unread_note().empty()) log(LogLevel::warning, "{}", checkpoint.unread_note());
    return checkpoint.config();
  }

  serving::Trace read_trace() {
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

  /// Reports the run. @returns the exit code: a failed request is a failed check. Collective.
  int finish(const Context& context, const serving::ServeOutcome& outcome) const {
    Json results;
    std::string text;
    std::vector<Samples> samples;
    bool all_served = true;
    if (context.is_root()) {
      results = serving::serving_results(outcome.requests, outcome.pool, metrics_, describe_run(outcome));
      if (without_output_ > 0) results["without_output"] = without_output_;
      text = serving::serving_text(results, metrics_);
      samples = request_samples(outcome.requests);
      for (const serving::ServedRequest& served : outcome.requests) {
        if (served.ended.why != serving::EndReason::failed) continue;
        if (std::exchange(all_served, false))
          log(LogLevel::error, "request {} failed: {}", served.request->id, served.ended.detail);
      }
    }
    report(context, "serve", results, text, samples);
    const bool good = context.world->max(static_cast<long long>(!all_served)) == 0;
    return static_cast<int>(good ? ExitCode::good : ExitCode::check_failed);
  }

  /// One row a request: arrival, queue, pool, prefill, handover, decode, exchange, e2e in ms, then token counts.
  static std::vector<Samples> request_samples(const std::vector<serving::ServedRequest>& requests) {
    Samples rows{"requests", {}, {requests.size(), 11}};
    for (const serving::ServedRequest& served : requests) {
      const serving::RequestRecord& r = served.record;
      const serving::PartTimes p = serving::parts_of(r);
      for (const serving::RunSpan value : {r.arrived - serving::RunTime{}, p.queue, p.pool, p.prefill, p.handover,
                                           p.decode, p.exchange, r.finished - r.arrived})
        rows.values.push_back(serving::to_ms(value));
      for (const std::size_t count :
           {static_cast<std::size_t>(r.hit_tokens), static_cast<std::size_t>(r.computed_tokens), r.tokens.size()})
        rows.values.push_back(static_cast<double>(count));
    }
    return {std::move(rows)};
  }

  serving::RunDescription describe_run(const serving::ServeOutcome& outcome) const {
    const serving::ServingConfig& s = options_.serving;
    serving::RunDescription run;
    run.dies = s.prefill_instances * s.prefill_dies + s.decode_instances * s.decode_dies;
    run.dies_per_npu = dies_per_npu_;
    if (!options_.modelled) return run;
    run.clock = "modelled";
    run.machine = options_.modelled->machine.name;
    run.wall = outcome.wall;
    run.modelled_s = outcome.modelled_s;
    run.steady_options = options_.modelled->steady;
    if (!outcome.steady) return run;
    run.steady = *outcome.steady;
    run.steady_s = serving::to_seconds(outcome.last - serving::RunTime{});
    run.formula_step_ms = ModelledOptions::formula_step_ms(*options_.modelled, s);
    run.steady_dies = run.steady_options->stage == serving::SteadyOptions::Stage::decode
                          ? s.decode_instances * s.decode_dies
                          : s.prefill_instances * s.prefill_dies;
    return run;
  }

  /// @param rules by which "auto" chooses in the run
  std::string plan_text(const moe::ModelConfig& model, std::shared_ptr<const collectives::SelectionRules> rules) const {
    const serving::ServingConfig& s = options_.serving;
    moe::TransformerOptions options;  // as the run's, so far as they decide the size of its exchange
    options.type = options_.type;
    options.max_batch_tokens = s.max_batch_tokens;
    options.exchange = s.exchange;
    options.exchange_rules = std::move(rules);
    const auto exchange_bytes = [&](int dies) {
      return model.n_routed_experts > 0 ? collectives::exchange_buffer_bytes(moe::exchange_config(model, options), dies)
                                        : std::size_t{0};
    };
    const double kv_token = static_cast<double>(moe::state_bytes_per_token(model, moe::DraftCache::none));
    std::string text =
        fmt::format("# {} ranks: mpirun -n {} supernode serve ...\n", serving::world_size(s), serving::world_size(s));
    text += fmt::format("{:<13} {:>7}  {}\n", "#role", "ranks", "memory per rank, weights apart");
    text += fmt::format("{:<13} {:>7}  -\n", "coordinator", 1);
    text +=
        fmt::format("{:<13} {:>7}  exchange {}, KV {} for {} tokens\n", "prefill", s.prefill_instances * s.prefill_dies,
                    format_size(static_cast<double>(exchange_bytes(s.prefill_dies))),
                    format_size(kv_token * s.max_prefill_tokens), s.max_prefill_tokens);
    text +=
        fmt::format("{:<13} {:>7}  exchange {}, KV {} for {} tokens\n", "decode", s.decode_instances * s.decode_dies,
                    format_size(static_cast<double>(exchange_bytes(s.decode_dies))),
                    format_size(kv_token * s.decode_kv_tokens), s.decode_kv_tokens);
    text +=
        fmt::format("{:<13} {:>7}  pool {}\n", "cache", s.cache_ranks,
                    s.cache_ranks > 0 ? format_size(static_cast<double>(pool::window_bytes(options_.pool))) : "none");
    return text;
  }

  std::string model_ = default_model;
  std::string trace_;
  std::uint64_t max_requests_ = 0, without_output_ = 0;
  int dies_per_npu_ = 1;  ///< of the emulated machine; read before the run, so that a missing file costs no results
  serving::TraceOptions trace_options_;
  std::string time_unit_ = "ms", zero_output_ = "skip";
  int max_concurrency_ = 0;
  std::string dtype_ = "f32";
  ModelledOptions modelled_;
  std::vector<std::string> goodput_, inject_;
  bool dry_run_ = false;
  serving::WorkloadOptions workload_;
  serving::MetricsOptions metrics_;
  serving::ServeOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_serve() { return std::make_unique<ServeCommand>(); }

}  // namespace supernode::launch
