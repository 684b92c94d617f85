#pragma once
// Streams of a die: each does its tasks one at a time; a task starts when its stream is free and all it depends on is
// done. Tasks of a stream start in the order they were added (as operators enqueued on a device stream do), so the
// schedule is deterministic.

#include <string>
#include <utility>
#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/emulation/machine/terms.hpp"

namespace supernode::emulation {

/// Which part of a step a task is of; -1: of no single one.
struct TaskPlace {
  int layer = -1;  ///< of the model, the speculative module's behind its last
  int microbatch = -1;
};

struct Task {
  const char* name = "";  ///< a literal
  int stream = 0;
  ModelTime duration;
  std::vector<int> after;  ///< indices of earlier tasks
  int before = -1;         ///< the task in front of it on its stream; -1: it is the first
  ModelTime begin, end;    ///< filled by add()
  TaskPlace place = {};
};

/// A timeline that grows by one task at a time.
class Timeline {
 public:
  explicit Timeline(std::vector<std::string> streams) : streams_(std::move(streams)), last_(streams_.size(), -1) {}

  /// Schedules a task behind all earlier ones of its stream. @param name must outlive the timeline; literals do
  /// @param after indices that add() returned
  /// @throws std::invalid_argument for a stream or an index that does not exist. @return its index
  int add(const char* name, int stream, ModelTime duration, std::vector<int> after = {}, TaskPlace place = {});

  const std::vector<Task>& tasks() const { return tasks_; }
  ModelTime end() const;             ///< of the last task
  ModelTime busy(int stream) const;  ///< sum of its durations

  /// The chain of tasks that ends last: each began at the moment when the one before it in the chain ended, so their
  /// durations add up to end(). O(tasks). @returns indices into tasks()
  std::vector<int> critical_tasks() const;
  /// The same as terms: one for each name of a task, in the order of the chain.
  Terms critical_path() const;

  const std::vector<std::string>& streams() const { return streams_; }

 private:
  std::vector<std::string> streams_;
  std::vector<int> last_;  ///< [streams] the last task of each, or -1
  std::vector<Task> tasks_;
};

/// Trace Event JSON for chrome://tracing and Perfetto: a process for each timeline, a row for each stream,
/// microseconds.
std::string chrome_trace(const std::vector<std::pair<std::string, const Timeline*>>& timelines);

}  // namespace supernode::emulation
