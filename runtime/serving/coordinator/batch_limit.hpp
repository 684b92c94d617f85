#pragma once
// How many requests a decode instance may run so that its output tokens keep an objective. Pure.

#include <optional>

namespace supernode::serving {

/// Learns how long an iteration lasts from those that were made, and says for how many requests on a die it still keeps
/// the objective.
///
/// What counts is the fullest die, since all wait for it. Recent iterations (the last fifty or so; older ones fade) give
/// a straight line of duration over batch, and how much durations scatter around it; a batch is allowed when the line
/// plus 2.33 standard deviations, which one iteration in a hundred exceeds, is within the objective. While batches are
/// much alike, they say nothing new of the slope, and it stays what it was; at first, when nothing is known of it, one
/// request more is tried. A batch beyond those of late is approached in steps of a quarter. The first iteration does not
/// count, since it pays for the first use of code and memory.
///
/// The objective is one of time per output token. With speculation an iteration may last as many times longer as it
/// yields tokens for a request. A few iterations of few requests say little of that yield, and whoever is let in stays: so
/// the mean counts less the error that it may have.
class BatchLimit {
 public:
  /// @param objective_ms of a request's time per output token; 0: none, everything is allowed
  explicit BatchLimit(double objective_ms) : objective_ms_(objective_ms) {}

  /// An iteration. @param batch requests on the fullest die, at least 1 @param tokens_per_request on average, at least 1
  void observe(int batch, double duration_ms, double tokens_per_request);

  /// Requests that a die may have at most; at least 1, at first 1. @param most never more than this
  int limit(int most) const;

 private:
  /// Mean of what was observed, by weight.
  double mean(double sum) const { return sum / weight_; }
  /// Tokens of a request in an iteration, at least; 1 without speculation.
  double sure_tokens() const;

  const double objective_ms_;
  // Sums over the iterations, each with a weight that fades.
  double weight_ = 0, x_ = 0, y_ = 0, xx_ = 0, xy_ = 0, yy_ = 0, tokens_ = 0, tokens_squared_ = 0;
  bool warm_ = false;            ///< one iteration was made
  double largest_ = 0;           ///< batch, of late
  std::optional<double> slope_;  ///< ms for a request, once batches have differed
};

}  // namespace supernode::serving
