#pragma once
// Clocks for what takes its wall time from a function.

#include "runtime/core/clock.hpp"

namespace supernode::serving::test {

inline double test_now_s = 0;
inline WallTime test_clock() { return {test_now_s}; }
/// Each look takes 1 ms, so that a wait for what does not come ends.
inline WallTime running_clock() { return {test_now_s += 0.001}; }

}  // namespace supernode::serving::test
