#include "moe/guess_trial.hpp"

#include <algorithm>

namespace supernode::moe {
namespace {

/// Times that are kept of each kind: an odd number, few enough to follow a growing context.
constexpr std::size_t kept = 31;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

double GuessTrial::Turns::per_token(bool with_guess) const {
  return (median(step_s) + (with_guess ? median(guess_s) : 0)) * static_cast<double>(count) / tokens;
}

void GuessTrial::record(bool used, double step_s, double guess_s, int tokens) {
  Turns& turns = used ? with_ : without_;
  const auto keep = [&](std::vector<double>& times, double time) {
    if (times.size() < kept) {
      times.push_back(time);
    } else {
      times[static_cast<std::size_t>(turns.count) % kept] = time;
    }
  };
  keep(turns.step_s, step_s);
  keep(turns.guess_s, guess_s);
  ++turns.count;
  turns.tokens += tokens;
  ++turns_;
  if (turns_ % trial_turns == 0 && with_.tokens > 0 && without_.tokens > 0)
    worthwhile_ = worthwhile_ && with_.per_token(true) < without_.per_token(false);
}

}  // namespace supernode::moe
