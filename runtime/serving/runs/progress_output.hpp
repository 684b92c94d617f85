#pragma once
// Where the lines of progress go.

#include <cstdint>

#include "runtime/serving/coordinator/run_watch.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::serving {

/// Has `watch` tell how far the run is: in one line of a terminal that is written over, or every ten seconds in the
/// log. Never on stdout. @param total requests of the run; 0: not known
class ProgressOutput {
 public:
  ProgressOutput(RunWatch& watch, ProgressMode mode, std::uint64_t total);
  /// Leaves the terminal's line.
  ~ProgressOutput();
  ProgressOutput(const ProgressOutput&) = delete;
  ProgressOutput& operator=(const ProgressOutput&) = delete;

 private:
  bool on_line_ = false;  ///< a terminal's line is written on
};

}  // namespace supernode::serving
