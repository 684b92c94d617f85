#include "runtime/core/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <boost/math/distributions/gamma.hpp>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/students_t.hpp>

namespace supernode {

double quantile(std::span<const double> sorted, double q) {
  if (sorted.empty()) return 0;
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = position - static_cast<double>(below);
  return sorted[below] + part * (sorted[above] - sorted[below]);
}

Summary summarize(std::span<const double> sample) {
  Summary s;
  s.count = sample.size();
  if (sample.empty()) return s;
  std::vector<double> sorted(sample.begin(), sample.end());
  std::sort(sorted.begin(), sorted.end());
  const double n = static_cast<double>(sorted.size());
  s.min = sorted.front();
  s.max = sorted.back();
  s.mean = std::accumulate(sorted.begin(), sorted.end(), 0.0) / n;
  s.p50 = quantile(sorted, 0.50);
  s.p90 = quantile(sorted, 0.90);
  s.p99 = quantile(sorted, 0.99);
  double squares = 0;
  for (const double x : sorted) squares += (x - s.mean) * (x - s.mean);
  s.stddev = sorted.size() > 1 ? std::sqrt(squares / (n - 1)) : 0;
  // Ranks n/2 -+ 1.96 sqrt(n)/2 bound the median with 95 % confidence, whatever the distribution.
  const double half = 0.98 * std::sqrt(n);
  const auto low = static_cast<std::size_t>(std::max(0.0, std::floor(n / 2 - half)));
  const auto high = static_cast<std::size_t>(std::min(n - 1, std::ceil(n / 2 + half)));
  s.ci95 = (sorted[high] - sorted[low]) / 2;
  return s;
}

double normal_quantile(double p) { return boost::math::quantile(boost::math::normal(), p); }

double gamma_quantile(double p, double shape) {
  return boost::math::quantile(boost::math::gamma_distribution<>(shape), p);
}

double mean_ci95(std::span<const double> sample) {
  if (sample.size() < 2) return 0;
  const Summary s = summarize(sample);
  const double n = static_cast<double>(sample.size());
  return boost::math::quantile(boost::math::students_t(n - 1), 0.975) * s.stddev / std::sqrt(n);
}

Json to_json(const Summary& s) {
  return {{"min", s.min}, {"mean", s.mean}, {"p50", s.p50}, {"p90", s.p90}, {"p99", s.p99}, {"ci95", s.ci95}};
}

}  // namespace supernode
