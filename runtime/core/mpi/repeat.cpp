#include "runtime/core/mpi/repeat.hpp"

#include <algorithm>

#include "runtime/core/statistics.hpp"

namespace supernode {
namespace {

/// Rounds of everybody's next turn, when each has made `made`.
int rounds_in_next_turn(int made, std::span<const Contender> contenders, const Repetition& repetition) {
  double round_s = 0;
  for (const Contender& contender : contenders) round_s += contender.round_s / static_cast<double>(contenders.size());
  const int cap = repetition.ci_width <= 0 ? repetition.least : std::max(repetition.most, repetition.least);
  return std::clamp(cap - made, 0, repetition.turn > 0 ? repetition.turn : rounds_in_turn(round_s));
}

}  // namespace

void warm_up(const Communicator& comm, const Repetition& repetition, double deadline_s, Contender& contender) {
  double passed = 0;
  for (int i = 0; i < std::max(repetition.warmup, 1) && passed <= repetition.time_limit_s / 10; ++i) {
    contender.round_s = contender.round(-1);
    take_largest(comm, {&contender.round_s, 1}, deadline_s);
    passed += contender.round_s;
  }
}

void repeat(const Communicator& comm, const Repetition& repetition, double deadline_s,
            std::span<Contender> contenders) {
  const WallTime begin = wall_now();
  const auto satisfied = [&] {
    return std::all_of(contenders.begin(), contenders.end(),
                       [&](const Contender& c) { return enough_rounds(c.us, repetition); });
  };
  std::vector<double> batch;
  double passed = 0;
  int made = 0;
  for (std::size_t first = 0; !satisfied() && (first == 0 || passed < repetition.time_limit_s); ++first) {
    const int rounds = rounds_in_next_turn(made, contenders, repetition);
    for (std::size_t k = 0; k < contenders.size(); ++k) {
      Contender& contender = contenders[(first + k) % contenders.size()];
      if (rounds > 1) contender.round(-1);
      batch.clear();
      for (int i = 0; i < rounds; ++i) {
        const double seconds = contender.round(made + i);
        batch.push_back(seconds * 1e6);
        contender.own_us.push_back(seconds * 1e6);
      }
      batch.push_back((wall_now() - begin).value);
      take_largest(comm, batch, deadline_s);
      passed = batch.back();
      batch.pop_back();
      contender.us.insert(contender.us.end(), batch.begin(), batch.end());
      contender.turn_us.push_back(summarize(batch).p50);
      if (contender.after_turn) contender.after_turn();
    }
    made += rounds;
  }
}

}  // namespace supernode
