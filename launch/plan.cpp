// supernode plan: what-if on a modelled machine, and the best deployment for given objectives.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "launch/commands.hpp"
#include "moe/model_shape.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/text.hpp"
#include "runtime/emulation/planner.hpp"
#include "runtime/emulation/published_setup.hpp"

namespace supernode::launch {

namespace {

using namespace emulation;

struct Options {
  std::string machine = "cloudmatrix384";
  std::string model = "deepseek-r1";
  std::vector<std::string> set;
  Objectives objectives;
  Workload workload;
  GivenSizes given;
  std::string expert_load = "even";
  double drift = kDrift, request_spread = kRequestSpread;
  int runners_up = 4;
  std::string trace;
};

double number_in(const std::string& text, const std::string& whole) {
  const std::optional<double> value = parse_number<double>(text);
  if (!value) throw UsageError(fmt::format("'{}': '{}' is not a number", whole, text));
  return *value;
}

/// "even", "zipf:ALPHA" or a file of recorded counts.
ExpertLoad load_of(const Options& options, const ModelShape& model) {
  ExpertLoad load;
  if (options.expert_load.starts_with("zipf:")) {
    const double alpha = number_in(options.expert_load.substr(5), options.expert_load);
    if (!(alpha >= 0 && alpha <= 10))
      throw UsageError(fmt::format("'{}': alpha is outside [0, 10]", options.expert_load));
    load = zipf_load(model.experts, alpha);
  } else if (options.expert_load != "even") {
    load = parse_expert_load(read_file(options.expert_load), options.expert_load);
    if (static_cast<int>(load.layers[0].size()) != model.experts)
      throw UsageError(fmt::format("{}: {} experts, but the model has {}", options.expert_load, load.layers[0].size(),
                                   model.experts));
  }
  load.drift = options.drift;
  load.request_spread = options.request_spread;
  return load;
}

Json to_json(const Machine& machine, const Deployment& d) {
  const auto layout = [](const ExpertLayout& l) {
    return Json{{"dies", l.dies}, {"shared_dies", l.shared_dies}, {"redundant_experts", l.redundant}};
  };
  return {{"output_tokens_per_s_per_npu", d.output_tokens_per_s_per_npu},
          {"requests_per_s", d.requests_per_s},
          {"npus", d.npus},
          {"tpot_ms", d.decode_result.tpot.ms()},
          {"ttft_ms", d.ttft.ms()},
          {"limit", d.limit},
          {"decode",
           {{"instances", d.decode_instances},
            {"npus", d.decode_npus(machine)},
            {"layout", layout(d.decode.layout)},
            {"batch_per_npu", d.decode.requests_per_die * machine.dies_per_npu},
            {"microbatches", d.decode_result.microbatches},
            {"tokens_per_s_per_npu", d.decode_result.tokens_per_s_per_npu},
            {"expert_skew", d.decode_result.skew},
            {"memory_gb", d.decode_result.memory_bytes / 1e9},
            {"limit", d.decode_result.limit}}},
          {"prefill",
           {{"instances", d.prefill_instances},
            {"npus", d.prefill_npus(machine)},
            {"layout", layout(d.prefill.layout)},
            {"tokens_per_npu", d.prefill.tokens_per_die * machine.dies_per_npu},
            {"tokens_per_s_per_npu", d.prefill_result.tokens_per_s_per_npu},
            {"expert_skew", d.prefill_result.skew},
            {"memory_gb", d.prefill_result.memory_bytes / 1e9},
            {"limit", d.prefill_result.limit}}}};
}

std::string line_of(const Machine& machine, const std::string& name, const Deployment& d) {
  return fmt::format(
      "{:<10} {:>9.1f} {:>8.1f} {:>7.1f} {:>8.0f}   {:>2} x {:<3} {:>6} {:>6.0f} {:>3}   {:>2} x {:<3} {:>7.0f} "
      "{:>6.0f}   {}\n",
      name, d.output_tokens_per_s_per_npu, d.requests_per_s, d.decode_result.tpot.ms(), d.ttft.ms(), d.decode_instances,
      d.decode_npus(machine), fmt::format("EP{}", d.decode.layout.dies),
      d.decode.requests_per_die * machine.dies_per_npu, d.decode_result.microbatches, d.prefill_instances,
      d.prefill_npus(machine), d.prefill.tokens_per_die * machine.dies_per_npu, d.prefill_result.tokens_per_s_per_npu,
      d.limit);
}

/// Why the first is better than the second, from their own figures.
std::string reasons(const Machine& machine, const Deployment& best, const Deployment& other) {
  std::string text = "why:\n";
  text += fmt::format(
      "  decode  {:7.0f} tokens/s/NPU against {:.0f}: a layer takes {:.0f} us against {:.0f} at {:.0f} and {:.0f} "
      "requests an NPU; bound by {} and {}\n",
      best.decode_result.tokens_per_s_per_npu, other.decode_result.tokens_per_s_per_npu, best.decode_result.layer.us(),
      other.decode_result.layer.us(), best.decode.requests_per_die * machine.dies_per_npu,
      other.decode.requests_per_die * machine.dies_per_npu, best.decode_result.limit, other.decode_result.limit);
  text += fmt::format("  prefill {:7.0f} tokens/s/NPU against {:.0f}; bound by {} and {}\n",
                      best.prefill_result.tokens_per_s_per_npu, other.prefill_result.tokens_per_s_per_npu,
                      best.prefill_result.limit, other.prefill_result.limit);
  text += fmt::format(
      "  busiest expert die over the mean: decode {:.2f} against {:.2f}, prefill {:.2f} against {:.2f}\n",
      best.decode_result.skew, other.decode_result.skew, best.prefill_result.skew, other.prefill_result.skew);
  const auto balance = [](const Deployment& d) {
    return fmt::format("prefill could take {:.0f} requests/s and decode {:.0f}", d.prefill_requests_per_s,
                       d.decode_requests_per_s);
  };
  return text + fmt::format("  balance: {}; published: {}\n", balance(best), balance(other));
}

class PlanCommand : public Command {
 public:
  void describe(OptionTable& table) override {
    const char* own = "plan";
    table.add(own, "machine", options_.machine, "emulated machine: a name in configs/machines, or a file");
    table.add(own, "model", options_.model, "model: a name in configs/models, a directory or a config.json");
    table.add(own, "set", options_.set,
              "changes to the machine, section.key=value: fabric.planes=3,die.memory_gbps=3200");
    table.add(own, "npus", options_.objectives.npus, "NPUs to use").range(1, 1e6);
    table.add(own, "tpot", options_.objectives.tpot_ms, "objective: time per output token, ms").range(0.01, 1e6);
    table.add(own, "ttft", options_.objectives.ttft_ms, "objective: time to first token without queueing, ms")
        .range(0.01, 1e7);
    table.add(own, "cache_nodes", options_.objectives.cache_nodes, "nodes whose DRAM is pooled; 0: all in use")
        .range(0, 1e6);
    table.add(own, "decode_npus", options_.given.decode_npus, "NPUs of a decode instance; 0: chosen").range(0, 1e6);
    table.add(own, "decode_instances", options_.given.decode_instances, "decode instances; 0: chosen").range(0, 1e6);
    table
        .add(own, "decode_redundant", options_.given.decode_copies,
             "redundant experts of a decode instance; -1: chosen")
        .range(-1, 1e6);
    table.add(own, "batch", options_.given.batch_per_npu, "requests an NPU decodes; 0: the most that keep TPOT")
        .range(0, 1e5);
    table.add(own, "prefill_npus", options_.given.prefill_npus, "NPUs of a prefill instance; 0: chosen").range(0, 1e6);
    table.add(own, "prefill_instances", options_.given.prefill_instances, "prefill instances; 0: chosen").range(0, 1e6);
    table
        .add(own, "prefill_redundant", options_.given.prefill_copies,
             "redundant experts of a prefill instance; -1: chosen")
        .range(-1, 1e6);
    table
        .add(own, "prefill_tokens", options_.given.prefill_tokens_per_npu,
             "prompt tokens an NPU in a prefill batch; 0: chosen")
        .range(0, 1e7);
    table.add(own, "prompt_tokens", options_.workload.prompt_tokens, "tokens of a prompt").range(1, 1e6);
    table.add(own, "output_tokens", options_.workload.output_tokens, "tokens of an answer").range(1, 1e6);
    table.add(own, "reuse", options_.workload.reuse, "share of a prompt found in the pool").range(0, 0.999);
    table.add(own, "acceptance", options_.workload.acceptance, "accepted share of the speculative token").range(0, 1);
    table.add(own, "expert_load", options_.expert_load, "even, zipf:ALPHA, or a file of recorded counts");
    table.add(own, "drift", options_.drift, "relative deviation of an expert slot's load from its forecast")
        .range(0, 10);
    table.add(own, "request_spread", options_.request_spread, "relative deviation of an expert's share among requests")
        .range(0, 100);
    table.add(own, "runners_up", options_.runners_up, "deployments to show behind the best").range(0, 100);
    table.add(own, "trace", options_.trace, "write the best deployment's streams to this new Chrome/Perfetto trace");
  }

  int run(const Context& context) override {
    if (!options_.trace.empty()) check_new_file(options_.trace, context.run.if_exists());
    Machine machine = load_machine(options_.machine);
    for (const std::string& change : options_.set) {
      const auto equals = change.find('=');
      if (equals == std::string::npos) throw UsageError(fmt::format("--set '{}': write section.key=value", change));
      set(machine, change.substr(0, equals), number_in(change.substr(equals + 1), change));
    }
    const int npus = machine.nodes * machine.npus_per_node;
    if (options_.objectives.npus > npus)
      throw UsageError(fmt::format("--npus {}: {} has {}", options_.objectives.npus, machine.name, npus));
    const ModelShape model = moe::load_model_shape(options_.model);
    Workload workload = options_.workload;
    workload.load = load_of(options_, model);

    const auto found = search(machine, model, workload, options_.objectives, {},
                              static_cast<std::size_t>(options_.runners_up) + 1, options_.given);
    if (found.empty())
      throw CheckError(fmt::format(
          "no deployment on {} NPUs of {} meets TPOT {:g} ms and TTFT {:g} ms, fits the memory and has the given sizes",
          options_.objectives.npus, machine.name, options_.objectives.tpot_ms, options_.objectives.ttft_ms));
    Json json{{"best", to_json(machine, found[0])}, {"runners_up", Json::array()}};
    std::string text = fmt::format(
        "# {}: {} NPUs, prompts of {:g} and answers of {:g} tokens, reuse {:g}, TPOT <= {:g} ms, TTFT <= {:g} ms\n",
        machine.source, options_.objectives.npus, workload.prompt_tokens, workload.output_tokens, workload.reuse,
        options_.objectives.tpot_ms, options_.objectives.ttft_ms);
    text += fmt::format("{:<10} {:>9} {:>8} {:>7} {:>8}   {:<27}  {:<22}   {}\n", "", "output", "requests", "TPOT",
                        "TTFT", "decode: NPUs, EP, batch, mb", "prefill: NPUs, tokens", "limited by");
    text += fmt::format("{:<10} {:>9} {:>8} {:>7} {:>8}   {:<27}  {:<22}\n", "", "tok/s/NPU", "/s", "ms", "ms", "",
                        "and tok/s a NPU");
    for (std::size_t i = 0; i < found.size(); ++i) {
      text += line_of(machine, i == 0 ? "best" : fmt::format("{}", i + 1), found[i]);
      if (i > 0) json["runners_up"].push_back(to_json(machine, found[i]));
    }
    add_published(machine, model, workload, found[0], text, json);

    text += fmt::format("switching one thing off in the best, at its sizes{}:\n",
                        options_.given.batch_per_npu > 0 ? " and batch" : ", batch chosen anew");
    json["contributions"] = Json::array();
    for (const Contribution& c :
         contributions(machine, model, workload, options_.objectives, found[0], options_.given)) {
      text += fmt::format("  {:<20} {:>6.1f} % less output (TPOT {:.1f} ms, TTFT {:.0f} ms)\n", c.name, c.loss_pct,
                          c.tpot_ms, c.ttft_ms);
      json["contributions"].push_back(
          {{"name", c.name}, {"loss_pct", c.loss_pct}, {"tpot_ms", c.tpot_ms}, {"ttft_ms", c.ttft_ms}});
    }
    if (!options_.trace.empty())
      write_file(options_.trace,
                 chrome_trace({{"decode iteration", &found[0].decode_result.timeline},
                               {"prefill batch", &found[0].prefill_result.timeline}}),
                 context.run.if_exists());
    report(context, "plan", json, text);
    return static_cast<int>(ExitCode::good);
  }

 private:
  /// The published deployment beside the best one, where the machine is large enough and it meets the objective.
  void add_published(const Machine& machine, const ModelShape& model, const Workload& workload, const Deployment& best,
                     std::string& text, Json& json) const {
    constexpr int kNpus = 6 * 16 + 160;
    const bool fits = model.experts == 256 && machine.dies() >= 512 && options_.objectives.npus >= kNpus;
    if (!fits) return;
    const Deployment published = published_deployment(machine, model, workload, options_.objectives);
    text += line_of(machine, "published", published) + reasons(machine, best, published);
    json["published"] = to_json(machine, published);
  }

  Options options_;
};

}  // namespace

std::unique_ptr<Command> make_plan() { return std::make_unique<PlanCommand>(); }

}  // namespace supernode::launch
