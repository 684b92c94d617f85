#include "runtime/serving/load/iterations.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/core/statistics.hpp"
#include "runtime/serving/load/latency.hpp"

namespace supernode::serving {
namespace {

double mean_batch(const std::vector<Iteration>& iterations, std::size_t from) {
  double sum = 0;
  for (std::size_t i = from; i < iterations.size(); ++i) sum += iterations[i].batch;
  return from < iterations.size() ? sum / static_cast<double>(iterations.size() - from) : 0;
}

}  // namespace

void add_iterations(Json& results, const std::vector<Iteration>& iterations, double objective_ms,
                    const std::vector<double>& percentiles) {
  std::vector<double> sample;
  double given = 0, requests = 0;
  for (const Iteration& iteration : iterations) {
    sample.push_back(iteration.ms);
    given += iteration.tokens_per_request * iteration.batch;
    requests += iteration.batch;
  }
  const double tokens = requests > 0 ? given / requests : 1;
  add_latency(results, "step", sample, percentiles);
  results["decode_steps"] = {
      {"count", iterations.size()}, {"mean_batch", mean_batch(iterations, 0)}, {"tokens_per_request", tokens}};
  if (!(objective_ms > 0)) return;
  std::sort(sample.begin(), sample.end());
  Json& objective = results["tpot_objective"];
  objective = {{"objective_ms", objective_ms},
               {"p99_step_ms_per_token", nullptr},
               {"kept", nullptr},
               {"batch", mean_batch(iterations, iterations.size() / 2)}};
  if (sample.empty()) return;
  const double p99 = quantile(sample, 0.99) / tokens;
  objective["p99_step_ms_per_token"] = p99;
  objective["kept"] = p99 <= objective_ms;
}

std::string iterations_text(const Json& results, const std::vector<double>& percentiles) {
  std::string text = latency_text(results, " Decode Step ", "step", "step", percentiles);
  text += number_line("Mean batch of the fullest die:", results["decode_steps"]["mean_batch"]);
  const auto found = results.find("tpot_objective");
  if (found == results.end()) return text;
  const Json& objective = *found;
  text += number_line(fmt::format("P99 step by token (ms; objective {:g}):", objective["objective_ms"].get<double>()),
                      objective["p99_step_ms_per_token"]);
  return text + number_line("Batch of the fullest die, second half:", objective["batch"]);
}

}  // namespace supernode::serving
