#pragma once
// Where the wall time of a step goes.

#include "moe/transformer.hpp"
#include "runtime/core/clock.hpp"

namespace supernode::moe {

/// Books wall time on the parts of a step: each lap is the time since the one before.
struct StepClock {
  void start() {
    statistics = {};
    lap_start = wall_now().value;
  }
  void lap(double StepStatistics::*part) {
    const double now = wall_now().value;
    statistics.*part += now - lap_start;
    lap_start = now;
  }

  StepStatistics statistics;
  double lap_start = 0;
};

}  // namespace supernode::moe
