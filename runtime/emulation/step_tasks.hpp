#pragma once
// The streams of all dies of an instance at once: every die does the same tasks in the same order, each for as long as
// its own takes. Rules as in machine/streams.hpp.

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/phase.hpp"
#include "runtime/emulation/machine/streams.hpp"

namespace supernode::emulation {

/// Which exchange a task is.
struct ExchangeTask {
  Phase phase = Phase::dispatch;
  int microbatch = 0, layer = 0;
};

class StepTasks {
 public:
  StepTasks(std::vector<std::string> streams, std::span<const ModelTime> starts);

  int dies() const { return static_cast<int>(starts_.size()); }

  /// Begins a task on every die: when its stream is free and `after` is done there. The caller then sets ends(task).
  /// @param after a task, or -1 @returns its index
  int begin(const char* name, int stream, int after, TaskPlace place = {}, std::optional<ExchangeTask> exchange = {});
  /// A task whose duration is known beforehand. @param durations [dies]
  int add(const char* name, int stream, int after, std::span<const ModelTime> durations, TaskPlace place = {});

  /// [dies]; they stay where they are until the next task begins.
  std::span<const ModelTime> begins(int task) const { return row(begins_, task); }
  std::span<const ModelTime> ends(int task) const { return row(ends_, task); }
  std::span<ModelTime> ends(int task) {
    return {ends_.data() + static_cast<std::size_t>(task) * starts_.size(), starts_.size()};
  }
  const std::optional<ExchangeTask>& exchange(int task) const {
    return tasks_[static_cast<std::size_t>(task)].exchange;
  }

  /// When each die's last task ends. [dies]
  std::vector<ModelTime> last_ends() const;

  /// The tasks of one die, from its start on; indices are those of the tasks here.
  Timeline timeline(int die) const;

 private:
  struct StepTask {
    const char* name;
    int stream, after;
    TaskPlace place;
    std::optional<ExchangeTask> exchange;
  };
  std::span<const ModelTime> row(const std::vector<ModelTime>& times, int task) const {
    return {times.data() + static_cast<std::size_t>(task) * starts_.size(), starts_.size()};
  }

  std::vector<std::string> streams_;
  std::vector<ModelTime> starts_;
  std::vector<int> last_;  ///< [streams] the last task of each, or -1
  std::vector<StepTask> tasks_;
  std::vector<ModelTime> begins_, ends_;  ///< [tasks][dies]
};

}  // namespace supernode::emulation
