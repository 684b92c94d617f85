#include "moe/model/guess_trial.hpp"

#include "runtime/core/statistics.hpp"

namespace supernode::moe {
namespace {

/// How many are kept: few enough to follow a growing context.
constexpr std::size_t recent = 31;

void keep(std::vector<double>& values, double value) {
  if (values.size() == recent) values.erase(values.begin());
  values.push_back(value);
}

}  // namespace

void GuessTrial::record(bool used, double step_s, double guess_s, int tokens) {
  if (turns_ < 0) {
    ++turns_;
    return;
  }
  Yield& yield = used ? with_ : without_;
  yield.tokens += tokens;
  ++yield.turns;
  if (used) {
    keep(recent_s_, step_s + guess_s);
  } else if (!recent_s_.empty()) {
    keep(costs_, summarize(recent_s_).p50 / step_s);
  }
  ++turns_;
  if (turns_ % trial_turns == 0 && !costs_.empty())
    worthwhile_ = worthwhile_ && summarize(costs_).p50 < (1 + doubt) * with_.per_turn() / without_.per_turn();
}

}  // namespace supernode::moe
