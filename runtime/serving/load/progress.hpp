#pragma once
// How far a run is, in a line from time to time. Pure.

#include <cstdint>
#include <string>

#include "runtime/core/clock.hpp"

namespace supernode::serving {

struct ProgressCounts {
  std::uint64_t done = 0;  ///< requests that have ended
  std::size_t running = 0, queued = 0;
  std::uint64_t tokens = 0;  ///< output so far
};

/// "served 30 of 120 requests, 48 running, 12 queued, 1250 tok/s, 12 s left". Tokens are per second of wall time since
/// the last line; the time left is wall time, if requests go on to end as they did so far.
class Progress {
 public:
  /// @param total requests of the run; 0: not known @param interval_s between lines
  Progress(WallTime start, double interval_s, std::uint64_t total)
      : start_(start), interval_s_(interval_s), total_(total), last_(start) {}

  bool due(WallTime now) const { return (now - last_).value >= interval_s_; }
  /// The line, and the next one is due an interval later.
  std::string line(WallTime now, const ProgressCounts& counts);

 private:
  const WallTime start_;
  const double interval_s_;
  const std::uint64_t total_;
  WallTime last_;
  std::uint64_t last_tokens_ = 0;
};

}  // namespace supernode::serving
