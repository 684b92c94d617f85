// supernode serve: replays a trace of requests on a deployment of coordinator, prefill, decode and cache ranks.
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "collectives/rule_file.hpp"
#include "launch/commands.hpp"
#include "launch/modelled_options.hpp"
#include "launch/serve_load.hpp"
#include "launch/serve_plan.hpp"
#include "launch/serve_results.hpp"
#include "moe/checkpoint.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/emulation/machine/machine.hpp"
#include "runtime/serving/load/metrics.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::launch {
namespace {

class ServeCommand : public Command {
 public:
  void describe(OptionTable& t) override {
    t.add("serve", "model", model_, "checkpoint directory");
    load_.describe(t);
    t.add("serve", "max_concurrency", max_concurrency_, "requests in flight; 0: no limit").range(0, 1e9);
    modelled_.describe(t);
    t.add("serve", "dtype", dtype_, "type of the model's matrices").choices({"f32", "bf16", "int8"});
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
    options_.max_concurrency = max_concurrency_;
    options_.deadline_s = context.run.deadline;
    const auto rules = collectives::load_rules(world, options_.serving.selection);
    options_.injections =
        collectively(world, [&] { return serving::parse_injections(inject_, options_.serving.cache_ranks); });
    options_.modelled = collectively(world, [&] {
      const moe::ModelConfig model = modelled_.chosen() ? read_config() : moe::ModelConfig{};
      return modelled_.make(options_.serving, model, dtype_, load_.seed());
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
    if (dry_run_) return {{}, plan_text(options_, model, std::move(rules))};
    serving::check_world_size(options_.serving, world_size);
    dies_per_npu_ = options_.modelled ? options_.modelled->machine.dies_per_npu
                                      : emulation::load_machine("cloudmatrix384").dies_per_npu;
    if (modelled_.steady()) return {};
    return {load_.make(model.vocab_size, serving::max_request_length(options_.serving, model)), {}};
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

  /// Reports the run. @returns the exit code: a failed request is a failed check. Collective.
  int finish(const Context& context, const serving::ServeOutcome& outcome) const {
    Json results;
    std::string text;
    std::vector<Samples> samples;
    bool all_served = true;
    if (context.is_root()) {
      results = serving::serving_results(outcome.requests, outcome.pool, metrics_,
                                         describe_run(options_, outcome, dies_per_npu_));
      if (load_.without_output() > 0) results["without_output"] = load_.without_output();
      text = serving::serving_text(results, metrics_);
      samples = {request_samples(outcome.requests)};
      for (const serving::ServedRequest& served : outcome.requests) {
        if (served.completed()) continue;
        if (std::exchange(all_served, false))
          log(LogLevel::error, "request {} failed: {}", served.request->id, served.ended.detail);
      }
    }
    report(context, "serve", results, text, samples);
    const bool good = context.world->max(static_cast<long long>(!all_served)) == 0;
    return static_cast<int>(good ? ExitCode::good : ExitCode::check_failed);
  }

  std::string model_ = default_model;
  LoadOptions load_;
  int dies_per_npu_ = 1;  ///< of the emulated machine; read before the run, so that a missing file costs no results
  int max_concurrency_ = 0;
  std::string dtype_ = "f32";
  ModelledOptions modelled_;
  std::vector<std::string> goodput_, inject_;
  bool dry_run_ = false;
  serving::MetricsOptions metrics_;
  serving::ServeOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_serve() { return std::make_unique<ServeCommand>(); }

}  // namespace supernode::launch
