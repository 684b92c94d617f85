#include "runtime/serving/coordinator/batch_limit.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace supernode::serving {
namespace {

/// Weight of an iteration against that of the next one: the last fifty have the most of it.
constexpr double fading = 0.98;
/// Standard deviations above the line that one iteration in a hundred exceeds.
constexpr double one_in_a_hundred = 2.33;
/// A duration counts as at most so many standard deviations above the mean: what happens less than once in a hundred
/// iterations is no reason to have fewer requests, however long it takes.
constexpr double outlier = 4;
/// Standard deviation that is allowed for in this, relative to the mean, when there was less.
constexpr double least_deviation = 0.1;
/// Relative deviation of tokens per request that is allowed for after the first iteration; it shrinks with their number.
constexpr double first_token_deviation = 0.2;
/// Relative deviation of batches from which on they say something of the slope.
constexpr double distinct = 0.1;

}  // namespace

void BatchLimit::observe(int batch, double duration_ms, double tokens_per_request) {
  if (!std::exchange(warm_, true)) return;
  const double x = batch;
  double y = duration_ms;
  if (weight_ > 0) {
    const double deviation = std::sqrt(std::max(0.0, mean(yy_) - mean(y_) * mean(y_)));
    y = std::min(y, mean(y_) + outlier * std::max(deviation, least_deviation * mean(y_)));
  }
  for (double* sum : {&weight_, &x_, &y_, &xx_, &xy_, &yy_, &tokens_, &tokens_squared_}) *sum *= fading;
  weight_ += 1;
  x_ += x;
  y_ += y;
  xx_ += x * x;
  xy_ += x * y;
  yy_ += y * y;
  tokens_ += tokens_per_request;
  tokens_squared_ += tokens_per_request * tokens_per_request;
  largest_ = std::max(x, largest_ * fading);
  const double variance = mean(xx_) - mean(x_) * mean(x_), covariance = mean(xy_) - mean(x_) * mean(y_);
  if (variance > distinct * distinct * mean(x_) * mean(x_)) slope_ = std::max(0.0, covariance / variance);
}

double BatchLimit::sure_tokens() const {
  const double of_an_iteration = mean(tokens_);
  const double seen = std::sqrt(std::max(0.0, mean(tokens_squared_) - of_an_iteration * of_an_iteration));
  const double deviation = std::max(seen, first_token_deviation * of_an_iteration / weight_);
  return std::max(1.0, of_an_iteration - one_in_a_hundred * deviation / std::sqrt(weight_));
}

int BatchLimit::limit(int most) const {
  if (objective_ms_ <= 0) return most;
  if (weight_ == 0) return 1;
  // Where a fixed part of an iteration does not shrink with the batch, twice this is steep; a slope that is steeper was
  // learnt while the law changed.
  const double slope = std::min(slope_.value_or(0), 2 * mean(y_) / mean(x_));
  const double variance = mean(xx_) - mean(x_) * mean(x_), covariance = mean(xy_) - mean(x_) * mean(y_);
  const double around_line = mean(yy_) - mean(y_) * mean(y_) - slope * (2 * covariance - slope * variance);
  const double scatter = one_in_a_hundred * std::sqrt(std::max(0.0, around_line));
  // How much longer than the mean an iteration may be.
  const double left = objective_ms_ * sure_tokens() - scatter - mean(y_);
  double fits = 0, tried = 0;
  if (slope_) {
    tried = std::max(largest_ + 1, largest_ * 1.25);
    fits = slope > 0 ? mean(x_) + left / slope : (left >= 0 ? tried : 1);
  } else {
    tried = largest_ + 1;
    fits = left >= 0 ? tried : mean(x_) * (mean(y_) + left) / mean(y_);
  }
  return static_cast<int>(std::clamp(std::min(fits, tried), 1.0, static_cast<double>(most)));
}

}  // namespace supernode::serving
