#pragma once
// The clock of a serving run: wall or modelled, chosen once for the run. Its times are a type of their own, so that
// they mix with no other clock's, and whole nanoseconds, so that the parts of a request add up exactly.

#include <chrono>
#include <cmath>
#include <cstdint>
#include <ratio>

namespace supernode::serving {

struct RunClock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = std::chrono::duration<rep, period>;
  using time_point = std::chrono::time_point<RunClock>;
  static constexpr bool is_steady = true;
};

using RunSpan = RunClock::duration;
/// A point on the run's clock; the run starts at RunTime{}.
using RunTime = RunClock::time_point;

/// To the nearest nanosecond. @pre |seconds| < 9e9
inline RunSpan run_span(double seconds) { return RunSpan(std::llround(seconds * 1e9)); }

constexpr double to_ms(RunSpan span) { return static_cast<double>(span.count()) / 1e6; }
constexpr double to_seconds(RunSpan span) { return static_cast<double>(span.count()) / 1e9; }

}  // namespace supernode::serving
