#pragma once
// Whether guessing tokens is worth its time, found out while decoding.

#include <cstddef>
#include <vector>

namespace supernode::moe {

///     24 turns      warm up: they count for nothing
///     32 turns      every fourth makes its guesses and does not use them, the others do
///     afterwards    every 32nd does not use them
///     each 32       stop for good if cost(with) / cost(without) >= 1.03 tokens(with) / tokens(without), per turn
///
/// Costs are medians of ratios: steps become slower as contexts grow, so a turn without is held against the latest
/// turns with guesses. Guesses are also made in turns that do not use them, so that the module's cache stays complete.
/// Pure.
class GuessTrial {
 public:
  /// The first turns count for nothing: weights come from memory that was never read since they were loaded.
  static constexpr int warm_up = 24, trial_turns = 32, spot_check = 32;
  /// Loss per token from which on guessing stops: a smaller one may be noise, and stopping is for good.
  static constexpr double doubt = 0.03;

  /// Whether the next turn should use the guesses that it has.
  bool use_guesses() const { return turns_ < 0 || turns_ % (turns_ < trial_turns ? 4 : spot_check) != 3; }
  /// After a turn in which every sequence had a guess.
  /// @param used as use_guesses() said; @param step_s the model's step; @param guess_s making the next guesses;
  /// @param tokens that the turn gave
  void record(bool used, double step_s, double guess_s, int tokens);
  /// False once a trial has shown that tokens come faster without guesses.
  bool worthwhile() const { return worthwhile_; }

 private:
  /// All turns of one kind.
  struct Yield {
    double tokens = 0, turns = 0;
    double per_turn() const { return tokens / turns; }
  };

  Yield with_, without_;
  std::vector<double> recent_s_;  ///< the latest turns with guesses: step and guess
  std::vector<double> costs_;     ///< of a turn with guesses over one without: the latest
  int turns_ = -warm_up;
  bool worthwhile_ = true;
};

}  // namespace supernode::moe
