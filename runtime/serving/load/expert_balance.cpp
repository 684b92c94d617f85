#include "runtime/serving/load/expert_balance.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace supernode::serving {
namespace {

/// Samples added up.
struct Phase {
  double imbalance = 0, worst = 0, tokens = 0, step_s = 0, bytes_away = 0;
  std::uint64_t steps = 0;
  double loaded_steps = 0;  ///< of samples with rows

  void add(const BalanceSample& sample) {
    const auto count = static_cast<double>(sample.steps);
    steps += sample.steps;
    tokens += sample.tokens;
    step_s += sample.step_s;
    bytes_away += sample.bytes_away;
    if (!(sample.imbalance > 0)) return;
    imbalance += sample.imbalance * count;
    worst += sample.worst * count;
    loaded_steps += count;
  }

  Json json() const {
    if (!(loaded_steps > 0)) return nullptr;
    const auto count = static_cast<double>(steps);
    return {{"steps", steps},
            {"max_over_mean", imbalance / loaded_steps},
            {"worst_layer_max_over_mean", worst / loaded_steps},
            {"card_to_card_bytes_per_token", tokens > 0 ? Json(bytes_away / tokens) : Json(nullptr)},
            {"card_to_card_bytes_per_step", bytes_away / count},
            {"step_ms", step_s / count * 1e3},
            {"tokens_per_s", step_s > 0 ? Json(tokens / step_s) : Json(nullptr)}};
  }
};

/// Adds the samples before the first change of places, and those behind the last one, or where that was in the last
/// sample, this one.
void add_phases(const BalanceFigures& figures, Phase& before, Phase& after) {
  const std::uint64_t all = figures.samples.empty() ? 0 : figures.samples.back().switched;
  std::uint64_t at_begin = 0;
  for (const BalanceSample& sample : figures.samples) {
    if (sample.switched == 0)
      before.add(sample);
    else if (at_begin == all || &sample == &figures.samples.back())
      after.add(sample);
    at_begin = sample.switched;
  }
}

Json role_json(const std::vector<InstanceBalance>& instances, const std::string& role) {
  BalanceFigures sum;
  Phase before, after;
  int count = 0;
  for (const InstanceBalance& one : instances) {
    if (one.role != role) continue;
    ++count;
    sum += one.figures;
    add_phases(one.figures, before, after);
  }
  if (count == 0) return nullptr;
  return {{"instances", count},
          {"rebalancings", sum.rebalancings},
          {"experts_moved", sum.experts_moved},
          {"bytes_moved", sum.bytes_moved},
          {"wall_s", sum.wall_s},
          {"modelled_s", sum.modelled_s},
          {"before", before.json()},
          {"after", after.json()}};
}

}  // namespace

BalanceFigures& BalanceFigures::operator+=(const BalanceFigures& other) {
  rebalancings += other.rebalancings;
  experts_moved += other.experts_moved;
  bytes_moved += other.bytes_moved;
  wall_s += other.wall_s;
  modelled_s += other.modelled_s;
  samples.insert(samples.end(), other.samples.begin(), other.samples.end());
  return *this;
}

Json rebalancing_json(const std::vector<InstanceBalance>& instances) {
  Json json = Json::object();
  for (const char* role : {"prefill", "decode"})
    if (Json of_role = role_json(instances, role); !of_role.is_null()) json[role] = std::move(of_role);
  return json;
}

std::string rebalancing_text(const Json& rebalancing) {
  const auto number = [](const Json& phase, const char* key, double unit) {
    return phase.is_null() || phase[key].is_null() ? std::string("-")
                                                   : fmt::format("{:.3f}", phase[key].get<double>() / unit);
  };
  struct Line {
    const char *label, *key;
    double unit;
  };
  constexpr Line lines[] = {{"  rows of the busiest die over the mean:", "max_over_mean", 1},
                            {"  the same of the worst layer:", "worst_layer_max_over_mean", 1},
                            {"  rows to other dies (KB by token):", "card_to_card_bytes_per_token", 1e3},
                            {"  step (ms):", "step_ms", 1},
                            {"  tokens by s of steps:", "tokens_per_s", 1}};
  std::string text = fmt::format("{:-^60}\n", " Expert rebalancing: before, after ");
  for (const auto& [role, of_role] : rebalancing.items()) {
    text += fmt::format("{}: {:.10g} rebalancings moved {:.10g} experts, {:.1f} MB\n", role,
                        of_role["rebalancings"].get<double>(), of_role["experts_moved"].get<double>(),
                        of_role["bytes_moved"].get<double>() / 1e6);
    for (const Line& line : lines)
      text += fmt::format("{:<40} {:>9} {:>9}\n", line.label, number(of_role["before"], line.key, line.unit),
                          number(of_role["after"], line.key, line.unit));
    text += fmt::format("{:<40} {:>9.3f} {:>9.4f}\n",
                        "  what it took (wall s, modelled s):", of_role["wall_s"].get<double>(),
                        of_role["modelled_s"].get<double>());
  }
  return text;
}

std::vector<SeriesTable> balance_tables(const std::vector<InstanceBalance>& instances) {
  std::vector<SeriesTable> tables;
  for (const InstanceBalance& one : instances) {
    SeriesTable table{fmt::format("{}/expert_balance/{}", one.role, one.instance), {}, {one.figures.samples.size(), 8}};
    table.columns = {"time_s", "steps",  "max_over_mean",      "worst_layer_max_over_mean",
                     "tokens", "step_s", "card_to_card_bytes", "layers_switched"};
    for (const BalanceSample& s : one.figures.samples)
      for (const double value : {s.at_s, static_cast<double>(s.steps), s.imbalance, s.worst, s.tokens, s.step_s,
                                 s.bytes_away, static_cast<double>(s.switched)})
        table.values.push_back(value);
    tables.push_back(std::move(table));
  }
  return tables;
}

}  // namespace supernode::serving
