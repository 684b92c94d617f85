#pragma once

#include "runtime/core/clock.hpp"

namespace supernode::pool::internal {

/// Adds the wall seconds of its life to a counter.
class Stopwatch {
 public:
  explicit Stopwatch(double& total) : total_(total), start_(wall_now()) {}
  ~Stopwatch() { total_ += (wall_now() - start_).value; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& total_;
  WallTime start_;
};

}  // namespace supernode::pool::internal
