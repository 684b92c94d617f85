// supernode replay: prices the recorded steps of a run again, on another machine.
#include "runtime/serving/record/replay.hpp"

#include <map>
#include <utility>

#include <fmt/format.h>

#include "launch/commands.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::launch {
namespace {

using serving::ReplayedInstance;
using serving::ReplayedSteps;
using serving::ReplayedTerm;

/// "-" and null where there is nothing to compare with.
std::string ratio_text(double recorded, double replayed) {
  return recorded > 0 ? fmt::format("{:.4f}", replayed / recorded) : "-";
}
Json ratio_json(double recorded, double replayed) { return recorded > 0 ? Json(replayed / recorded) : Json(); }

Json terms_json(const std::vector<ReplayedTerm>& terms) {
  Json json = Json::object();
  for (const ReplayedTerm& term : terms)
    json[term.name] = {{"recorded", term.recorded_s}, {"replayed", term.replayed_s}};
  return json;
}

std::string terms_text(std::string_view title, const std::vector<ReplayedTerm>& terms) {
  std::string text;
  for (const ReplayedTerm& term : terms)
    text += fmt::format("{:<34} {:>13.6f} {:>13.6f} {:>8}\n", fmt::format("{}{}", title, term.name), term.recorded_s,
                        term.replayed_s, ratio_text(term.recorded_s, term.replayed_s));
  return text;
}

/// A row of the table, and its part of the document.
Written row_of(const std::string& name, int dies, const ReplayedSteps& steps) {
  const Summary before = summarize(steps.recorded_ms), now = summarize(steps.replayed_ms);
  const double count = static_cast<double>(steps.recorded_ms.size());
  const double recorded_s = before.mean * count / 1e3, replayed_s = now.mean * count / 1e3;
  Written row;
  row.text = fmt::format("{:<12} {:>6} {:>7} {:>11.6f} {:>11.6f} {:>10.4f} {:>10.4f} {:>10.4f} {:>10.4f} {:>8}\n", name,
                         dies, steps.recorded_ms.size(), recorded_s, replayed_s, before.mean, now.mean, before.p50,
                         now.p50, ratio_text(recorded_s, replayed_s));
  row.json = {{"dies", dies},
              {"steps", steps.recorded_ms.size()},
              {"time_s", {{"recorded", recorded_s}, {"replayed", replayed_s}}},
              {"mean_step_ms", {{"recorded", before.mean}, {"replayed", now.mean}}},
              {"median_step_ms", {{"recorded", before.p50}, {"replayed", now.p50}}},
              {"ratio", ratio_json(recorded_s, replayed_s)},
              {"terms_s", terms_json(steps.terms)},
              {"exchange_terms_s", terms_json(steps.exchange)}};
  return row;
}

class ReplayCommand : public Command {
 public:
  void describe(OptionTable& t) override {
    t.add("replay", "record", record_, "file that `serve --record` wrote").stands_alone();
    t.add("replay", "machine", machine_,
          "machine file or name in configs/machines on which the steps are priced again; empty: that of the record. "
          "Batches "
          "and the starts of dies stay as recorded: nothing is scheduled again");
  }

  int run(const Context& context) override {
    if (record_.empty()) throw UsageError("--record is missing: name a file that `serve --record` wrote");
    serving::RecordReader record(record_);
    const serving::RunHead& head = record.head();
    const emulation::Machine machine = machine_.empty() ? head.machine : emulation::load_machine(machine_);
    const std::vector<ReplayedInstance> instances = serving::replay(record, machine);

    Json results{{"record", record_},
                 {"recorded_by", head.program},
                 {"recorded_machine", head.machine.name},
                 {"machine", machine.name}};
    std::string text = fmt::format("# {}, recorded on {} by supernode {}; replayed on {}\n", record_, head.machine.name,
                                   head.program, machine.name);
    text += fmt::format("{:<12} {:>6} {:>7} {:>23} {:>21} {:>21} {:>8}\n", "#", "dies", "steps", "all steps, s",
                        "mean step, ms", "median step, ms", "ratio");
    text += fmt::format("{:<27} {:>11} {:>11} {:>10} {:>10} {:>10} {:>10}\n", "#", "recorded", "replayed", "recorded",
                        "replayed", "recorded", "replayed");
    const auto other_ends = add_rows(instances, results, text);
    results["other_ends"] = other_ends;
    if (other_ends > 0)
      log(LogLevel::warning,
          "{}: on its own machine {} ends of dies are not the recorded ones: it was written by supernode {}", record_,
          other_ends, head.program);
    report(context, "replay", results, text, samples(instances));
    return static_cast<int>(ExitCode::good);
  }

 private:
  /// A row for each instance, and one for each stage with its terms. @returns ends that are not the recorded ones
  static std::int64_t add_rows(const std::vector<ReplayedInstance>& instances, Json& results, std::string& text) {
    std::map<emulation::Stage, std::pair<int, ReplayedSteps>> stages;
    results["instances"] = results["stages"] = Json::array();
    for (const ReplayedInstance& instance : instances) {
      const Written row = row_of(to_string(instance.id), instance.dies, instance.steps);
      text += row.text;
      Json json{{"stage", serving::name_of(instance.id.stage)}, {"instance", instance.id.index}};
      json.update(row.json);
      results["instances"].push_back(std::move(json));
      if (instance.steps.recorded_ms.empty()) continue;
      auto& [dies, steps] = stages[instance.id.stage];
      dies += instance.dies;
      steps += instance.steps;
    }
    std::int64_t other_ends = 0;
    std::string terms;
    for (const auto& [stage, sum] : stages) {
      const auto& [dies, steps] = sum;
      const Written row = row_of(fmt::format("all {}", serving::name_of(stage)), dies, steps);
      text += row.text;
      Json json{{"stage", serving::name_of(stage)}};
      json.update(row.json);
      results["stages"].push_back(std::move(json));
      other_ends += steps.other_ends;
      terms += fmt::format("\n{:<34} {:>13} {:>13} {:>8}\n",
                           fmt::format("# {}: where the time went", serving::name_of(stage)), "recorded, s",
                           "replayed, s", "ratio");
      terms += terms_text("", steps.terms) + terms_text("  exchange: ", steps.exchange);
    }
    text += terms;
    return other_ends;
  }

  /// The length of each step, ms.
  static std::vector<Samples> samples(const std::vector<ReplayedInstance>& instances) {
    std::vector<Samples> all;
    for (const ReplayedInstance& instance : instances) {
      const std::string group = fmt::format("{}/{}/", serving::name_of(instance.id.stage), instance.id.index);
      const std::size_t steps = instance.steps.recorded_ms.size();
      all.push_back({group + "recorded_ms", instance.steps.recorded_ms, {steps}});
      all.push_back({group + "replayed_ms", instance.steps.replayed_ms, {steps}});
    }
    return all;
  }

  std::string record_, machine_;
};

}  // namespace

std::unique_ptr<Command> make_replay() { return std::make_unique<ReplayCommand>(); }

}  // namespace supernode::launch
