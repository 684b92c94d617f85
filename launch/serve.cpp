// supernode serve: a load of requests on a deployment of coordinator, prefill, decode and cache ranks.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "collectives/rule_file.hpp"
#include "launch/commands.hpp"
#include "launch/modelled_options.hpp"
#include "launch/partial_results.hpp"
#include "launch/serve_job.hpp"
#include "launch/serve_load.hpp"
#include "launch/serve_plan.hpp"
#include "launch/serve_variations.hpp"
#include "launch/step_outputs.hpp"
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
    variations_.describe(t);
    t.add("serve", "max_concurrency", max_concurrency_, "requests in flight; 0: no limit").range(0, 1e9);
    modelled_.describe(t);
    step_outputs_.describe(t);
    t.add("serve", "dtype", dtype_, "type of the model's matrices").choices({"f32", "bf16", "int8"});
    t.add("serve", "goodput", goodput_, "objectives in ms that a good request meets, as ttft:2000,tpot:50,e2el:9000");
    t.add("serve", "metric_percentiles", metrics_.percentiles, "percentiles of the latencies, as 50,99,99.9");
    t.add("serve", "save_detailed", metrics_.save_detailed, "each request in the JSON results");
    t.add("serve", "save_tokens", metrics_.save_tokens, "with --save-detailed: prompt and output token ids too");
    t.add("serve", "model_from_pool", options_.model_from_pool,
          "the cache ranks read the checkpoint, once; all others load it from their memory");
    t.add("serve", "inject", inject_,
          "failures: owner_stall or owner_loss, each [:CACHE RANK][@START][+SECONDS], as owner_loss:0@2.5+20; "
          "slow_rank=RANK:FACTOR[@START][+SECONDS]; stall_rank=RANK:SECONDS[@START]");
    t.add("serve", "progress", options_.progress,
          "how far the run is, on stderr: one line that is written over, or lines in the log at level info; auto: line "
          "on a terminal, else log",
          {"auto", "line", "log", "off"});
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
    options_.injections = collectively(world, [&] { return serving::parse_injections(inject_, options_.serving); });
    options_.modelled = collectively(world, [&] {
      const moe::ModelConfig model = modelled_.chosen() ? read_config() : moe::ModelConfig{};
      std::optional<serving::ModelledRun> run = modelled_.make(options_.serving, model, dtype_, load_.seed());
      step_outputs_.ask(run);
      if (run && run->steady) load_.share_prefixes(*run->steady);
      return run;
    });
    // Whatever is wrong with options, files or sizes is found by rank 0 before anyone loads a model.
    std::string plan;
    on_root(world, [&] { plan = prepare(world.size(), rules); });
    if (dry_run_) {
      report(context, "serve", Json{{"plan", plan}}, plan);
      return static_cast<int>(ExitCode::good);
    }
    std::optional<PartialResults> partial;
    if (!context.run.output.empty()) {
      on_root(world, [&] { partial.emplace(context.run.output, context.run.if_exists()); });
      if (partial)
        options_.on_end = [&](const serving::ServedRequest& served) { partial->add(request_row(served, metrics_)); };
    }
    on_root(world, [&] { step_outputs_.open(options_, context.run); });
    const bool at_once = modelled_.steady() || load_.at_once(modelled_.generated());
    ServeJob job(collectively(world, [&] { return variations_.make(options_, at_once); }),
                 {.repeats = variations_.repeats(),
                  .peaks = variations_.scales_load(),
                  .metrics = metrics_,
                  .dies_per_npu = dies_per_npu_,
                  .step_outputs = &step_outputs_},
                 [&](const RunOfJob& run) { return requests_of(run); });
    const int code = finish(context, job.serve(world));
    if (partial) partial->remove();
    return code;
  }

 private:
  /// What a run begins with; on rank 0 only. @param rules by which "auto" chooses in the run
  /// @returns the plan of a dry run
  std::string prepare(int world_size, std::shared_ptr<const collectives::SelectionRules> rules) {
    metrics_.goodput_ms = serving::parse_goodput(goodput_);
    for (const double p : metrics_.percentiles)
      if (p < 0 || p > 100) throw UsageError(fmt::format("--metric-percentiles: {} is outside [0, 100]", p));
    if (variations_.scales_load() && std::count(metrics_.percentiles.begin(), metrics_.percentiles.end(), 99.0) == 0)
      metrics_.percentiles.push_back(99);  // peaks are told by it
    const moe::ModelConfig model = read_model();
    if (dry_run_) return plan_text(options_, model, std::move(rules));
    serving::check_world_size(options_.serving, world_size);
    dies_per_npu_ = options_.modelled ? options_.modelled->machine.dies_per_npu
                                      : emulation::load_machine("cloudmatrix384").dies_per_npu;
    vocabulary_ = model.vocab_size;
    max_length_ = serving::max_request_length(options_.serving, model);
    if (!modelled_.steady()) prepared_ = requests_of({});
    return {};
  }

  /// Of a load that makes its own: none.
  std::vector<serving::Request> requests_of(const RunOfJob& run) {
    if (modelled_.steady()) return {};
    if (prepared_ && run.seed_offset == 0 && run.load_factor == 1) return *std::exchange(prepared_, std::nullopt);
    return load_.make(modelled_.generated(), run, vocabulary_, max_length_);
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

  /// Reports the job. @returns the exit code: a failed request is a failed check. Collective.
  int finish(const Context& context, JobOutcome outcome) const {
    if (context.is_root() && load_.without_output() > 0) outcome.results["without_output"] = load_.without_output();
    report(context, "serve", outcome.results, outcome.text, outcome.samples);
    return static_cast<int>(outcome.all_served ? ExitCode::good : ExitCode::check_failed);
  }

  std::string model_ = default_model;
  LoadOptions load_;
  VariationOptions variations_;
  int dies_per_npu_ = 1;  ///< of the emulated machine; read before the run, so that a missing file costs no results
  int vocabulary_ = 0, max_length_ = 0;                    ///< of the model and the deployment; on rank 0 only
  std::optional<std::vector<serving::Request>> prepared_;  ///< for the run as configured, until it takes them
  int max_concurrency_ = 0;
  std::string dtype_ = "f32";
  ModelledOptions modelled_;
  StepOutputs step_outputs_;
  std::vector<std::string> goodput_, inject_;
  bool dry_run_ = false;
  serving::MetricsOptions metrics_;
  serving::ServeOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_serve() { return std::make_unique<ServeCommand>(); }

}  // namespace supernode::launch
