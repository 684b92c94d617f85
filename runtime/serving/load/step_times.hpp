#pragma once
// How long the dies of a run took for their steps, and which of them is slow. Pure.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace supernode::serving {

/// What a die took for its steps: computing alone, without exchange and waits. On the wall clock steps count in which
/// the die had tokens, on a modelled one all.
struct StepTimes {
  std::uint64_t steps = 0;
  double median_s = 0;  ///< of a step
  double median_per_token_s =
      0;  ///< of a step, divided by its tokens; modelled: by the mean tokens of the instance's dies
  friend bool operator==(const StepTimes&, const StepTimes&) = default;
};

/// The steps of a die as they come.
class StepTimesSample {
 public:
  /// @param tokens that the step is to be divided by, more than 0
  void add(double computing_s, double tokens) {
    step_s_.push_back(computing_s);
    per_token_s_.push_back(computing_s / tokens);
  }
  StepTimes times() const;

 private:
  std::vector<double> step_s_, per_token_s_;
};

/// The same with the die's place.
struct DieSteps {
  int rank = 0;
  std::string role;  ///< "prefill" or "decode"
  int instance = 0, die = 0;
  StepTimes times;
};

/// The die that is furthest above its peers.
struct SlowestDie {
  std::size_t index = 0;    ///< in the dies that were looked at
  double times_median = 0;  ///< its step time / the median of the other dies of its role
};

/// Fewer steps than this are no median to go by.
inline constexpr std::uint64_t compared_from = 8;

/// Prefill dies are compared by token, since their steps are as long as their prompts; decode dies by step.
/// @returns nothing when no role has two dies of `compared_from` steps or more
std::optional<SlowestDie> slowest_die(std::span<const DieSteps> dies);

/// From here on a die is called slow in text: above what uneven batches make of equal dies.
inline constexpr double slow_from = 1.5;

}  // namespace supernode::serving
