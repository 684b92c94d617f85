#pragma once
// Whether guessing tokens is worth its time, found out while decoding.

#include <cstddef>
#include <vector>

namespace supernode::moe {

/// Guessing costs two things, the guess itself and a second row in the model's step, and saves steps. Most turns of a
/// trial use their guesses; every fourth makes them and does not use them, so that both kinds of turns are timed while
/// the module's cache stays complete. What a turn with guesses costs is taken as a multiple of a turn without and
/// compared with the tokens that it gives; guessing then goes on or stops for good. While it goes on, a turn in
/// thirty-two is still timed without. Steps become slower as contexts grow, so a turn without is held against the turns
/// around it. Medians, so that a few disturbed turns decide nothing. Pure.
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
