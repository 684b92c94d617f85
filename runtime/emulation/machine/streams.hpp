#pragma once
// Streams of a die: each does its tasks one at a time; a task starts when its stream is free and all it depends on is
// done. Tasks of a stream start in the order they were added (as operators enqueued on a device stream do), so the
// schedule is deterministic.

#include <string>
#include <utility>
#include <vector>

#include "runtime/core/clock.hpp"

namespace supernode::emulation {

struct Task {
  std::string name;
  int stream = 0;
  ModelTime duration;
  std::vector<int> after;  ///< indices of earlier tasks
  ModelTime begin, end;    ///< filled by add()
};

/// A timeline that grows by one task at a time.
class Timeline {
 public:
  explicit Timeline(std::vector<std::string> streams) : streams_(std::move(streams)), free_(streams_.size()) {}

  /// Schedules a task behind all earlier ones of its stream. @param after indices that add() returned
  /// @throws std::invalid_argument for a stream or an index that does not exist. @return its index
  int add(std::string name, int stream, ModelTime duration, std::vector<int> after = {});

  const std::vector<Task>& tasks() const { return tasks_; }
  ModelTime end() const;             ///< of the last task
  ModelTime busy(int stream) const;  ///< sum of its durations

  const std::vector<std::string>& streams() const { return streams_; }

 private:
  std::vector<std::string> streams_;
  std::vector<ModelTime> free_;
  std::vector<Task> tasks_;
};

/// Trace Event JSON for chrome://tracing and Perfetto: a process for each timeline, a row for each stream,
/// microseconds.
std::string chrome_trace(const std::vector<std::pair<std::string, const Timeline*>>& timelines);

}  // namespace supernode::emulation
