#pragma once
// Times the coordinator's loop on the wall clock.

#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/serving/load/coordinator_figures.hpp"
#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

class LoopTimes {
 public:
  /// @param clock tests have their own
  explicit LoopTimes(WallTime (*clock)() = wall_now) : clock_(clock) {}

  /// An event is in the loop's hands.
  void taken() { taken_ = clock_(); }
  /// What it led to has been ordered. O(dies of the steps that began)
  void ordered(const Event& event, const std::vector<Command>& commands);

  CoordinatorFigures figures() const;

 private:
  struct Iteration {
    double requests = 0, took_s = 0, turnaround_s = 0;
  };
  struct Running {
    WallTime since;
    double requests = 0;
  };

  WallTime (*const clock_)();
  WallTime taken_;
  double busy_s_ = 0;
  std::uint64_t events_ = 0;
  std::vector<Running> running_;       ///< [decode instance]: its last order
  std::vector<Iteration> iterations_;  ///< of which the last report led to the next order
};

}  // namespace supernode::serving
