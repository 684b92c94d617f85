#pragma once
// Adds up where wall time goes.

#include "runtime/core/clock.hpp"

namespace supernode {

/// Adds the wall seconds of its life to a total.
class Stopwatch {
 public:
  explicit Stopwatch(double& total_s) : total_s_(total_s) {}
  ~Stopwatch() { total_s_ += (wall_now() - start_).value; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& total_s_;
  WallTime start_ = wall_now();
};

}  // namespace supernode
