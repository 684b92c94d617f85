#include "runtime/core/repetition.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "runtime/core/error.hpp"

namespace supernode {

double relative_ci_width(std::span<const double> sample) {
  if (sample.size() < 6) return std::numeric_limits<double>::infinity();
  const Summary summary = summarize(sample);
  return summary.p50 > 0 ? 2 * summary.ci95 / summary.p50 : 0;
}

bool enough_rounds(std::span<const double> sample, const Repetition& repetition) {
  const auto n = static_cast<int>(sample.size());
  if (n < repetition.least) return false;
  return repetition.ci_width <= 0 || n >= repetition.most || relative_ci_width(sample) <= repetition.ci_width;
}

int rounds_in_turn(double round_s) {
  constexpr double turn_s = 0.008;
  // What takes this long has swept the caches by itself.
  constexpr double sweeping_s = 0.02;
  if (round_s >= sweeping_s) return 1;
  return static_cast<int>(std::clamp(turn_s / std::max(round_s, 1e-9), 4.0, 32.0));
}

Summary paired_ratio(std::span<const double> times, std::span<const double> others) {
  expect(times.size() == others.size(), "a pair without its other half");
  std::vector<double> quotients(times.size());
  for (std::size_t i = 0; i < times.size(); ++i) quotients[i] = others[i] > 0 ? times[i] / others[i] : 1;
  return summarize(quotients);
}

}  // namespace supernode
