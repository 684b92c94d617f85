#include "runtime/serving/load/step_times.hpp"

#include <algorithm>
#include <utility>

#include "runtime/core/statistics.hpp"

namespace supernode::serving {
namespace {

double compared(const DieSteps& die) {
  return die.role == "prefill" ? die.times.median_per_token_s : die.times.median_s;
}

double median_of(std::vector<double> sample) {
  if (sample.empty()) return 0;
  std::sort(sample.begin(), sample.end());
  return quantile(sample, 0.5);
}

bool enough_steps(const DieSteps& die) { return die.times.steps >= compared_from; }

}  // namespace

StepTimes StepTimesSample::times() const { return {step_s_.size(), median_of(step_s_), median_of(per_token_s_)}; }

std::optional<SlowestDie> slowest_die(std::span<const DieSteps> dies) {
  std::optional<SlowestDie> slowest;
  for (std::size_t i = 0; i < dies.size(); ++i) {
    if (!enough_steps(dies[i])) continue;
    std::vector<double> others;
    for (std::size_t k = 0; k < dies.size(); ++k)
      if (k != i && dies[k].role == dies[i].role && enough_steps(dies[k])) others.push_back(compared(dies[k]));
    if (others.empty()) continue;
    const double median = median_of(std::move(others));
    if (!(median > 0)) continue;
    const double times = compared(dies[i]) / median;
    if (!slowest || times > slowest->times_median) slowest = SlowestDie{i, times};
  }
  return slowest;
}

}  // namespace supernode::serving
