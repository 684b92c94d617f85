#include "moe/sampler.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "runtime/core/random.hpp"

namespace supernode::moe {

bool all_finite(std::span<const float> logits) {
  // x * 0 is 0 for a number and NaN for all else; eight sums side by side, so that no addition waits for the one
  // before.
  std::array<float, 8> sums{};
  std::size_t i = 0;
  for (; i + sums.size() <= logits.size(); i += sums.size())
    for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += logits[i + j] * 0.0f;
  for (; i < logits.size(); ++i) sums[0] += logits[i] * 0.0f;
  return std::accumulate(sums.begin(), sums.end(), 0.0f) == 0.0f;
}

CheckError not_finite(std::span<const float> logits, int position) {
  const auto odd = [](float logit) { return !std::isfinite(logit); };
  const auto count = std::count_if(logits.begin(), logits.end(), odd);
  const auto first = std::find_if(logits.begin(), logits.end(), odd);
  const auto token = first - logits.begin();
  return CheckError(
      fmt::format("position {}: {} of {} logits are not finite (token {}: {}): the weights do not fit this arithmetic, "
                  "or are damaged",
                  position, count, logits.size(), token, first == logits.end() ? 0.0f : *first));
}

std::int32_t most_likely(std::span<const float> logits) {
  // Side by side, so that no comparison waits for the one before it. A NaN is never larger.
  std::array<float, 16> tops;
  tops.fill(-std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + tops.size() <= logits.size(); i += tops.size())
    for (std::size_t j = 0; j < tops.size(); ++j) tops[j] = logits[i + j] > tops[j] ? logits[i + j] : tops[j];
  for (; i < logits.size(); ++i) tops[0] = logits[i] > tops[0] ? logits[i] : tops[0];
  const auto best = std::find(logits.begin(), logits.end(), *std::max_element(tops.begin(), tops.end()));
  return best == logits.end() ? 0 : static_cast<std::int32_t>(best - logits.begin());
}

std::int32_t sample(std::span<const float> logits, const SamplerOptions& options, std::uint64_t request, int position) {
  const std::int32_t best = most_likely(logits);
  if (options.temperature <= 0) return best;
  const double top = logits[static_cast<std::size_t>(best)];
  std::vector<double> weights(logits.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double weight = logits[i] == top ? 1 : std::exp((logits[i] - top) / options.temperature);
    weights[i] = std::isnan(weight) ? 0 : weight;
  }
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto weight = [&](std::int32_t token) { return weights[static_cast<std::size_t>(token)]; };
  std::sort(order.begin(), order.end(),
            [&](std::int32_t a, std::int32_t b) { return weight(a) > weight(b) || (weight(a) == weight(b) && a < b); });

  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double kept = 0;
  std::size_t n_kept = 0;
  while (n_kept < order.size() && (n_kept == 0 || kept < options.top_p * total)) kept += weight(order[n_kept++]);

  Random random(options.seed, mix64(request) + static_cast<std::uint64_t>(position));
  double left = random.uniform() * kept;
  for (std::size_t i = 0; i < n_kept; ++i) {
    left -= weight(order[i]);
    if (left < 0) return order[i];
  }
  return order[n_kept - 1];
}

}  // namespace supernode::moe
