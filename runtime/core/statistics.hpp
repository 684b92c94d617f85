#pragma once
// Summaries of repeated measurements.

#include <span>

#include "runtime/core/json.hpp"

namespace supernode {

/// Order statistics of a sample, in the unit of the sample.
struct Summary {
  double min = 0, mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
  double stddev = 0;  ///< n-1 in the denominator; 0 for one value
  /// Half-width of the distribution-free 95 % confidence interval of the median (order statistics of the binomial).
  double ci95 = 0;
  std::size_t count = 0;
};

/// All zero for an empty sample. O(n log n).
Summary summarize(std::span<const double> sample);

/// The q-quantile, q in [0, 1], by linear interpolation between order statistics (as NumPy's default). `sorted`
/// ascending.
double quantile(std::span<const double> sorted, double q);

/// The x that a standard normal value is below with probability p, in (0, 1).
double normal_quantile(double p);

/// The x that a gamma-distributed value of this shape and scale 1 is below with probability p, in [0, 1). shape > 0.
double gamma_quantile(double p, double shape);

/// Half-width of the 95 % confidence interval of the mean, by Student's t; 0 for fewer than two values.
double mean_ci95(std::span<const double> sample);

/// {"min","mean","p50","p90","p99","ci95"}
Json to_json(const Summary& summary);

}  // namespace supernode
