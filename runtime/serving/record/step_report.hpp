#pragma once
// What the first die of an instance tells the coordinator of a step that it has priced, where someone wants to know:
// a record of the run, or a trace of it. Pure.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/emulation/machine/streams.hpp"
#include "runtime/emulation/step_time.hpp"
#include "runtime/serving/load/run_time.hpp"

namespace supernode::serving {

/// What is wanted of steps. Equal on all ranks of a run.
struct StepReports {
  bool records = false;           ///< the records of all dies
  std::int64_t traced_step = -1;  ///< of each instance, from 0: that step with all tasks of all dies; -1: of none
};

/// The tasks of all dies of an instance in one step. Every die does the same tasks, each at times of its own.
struct StepTimeline {
  struct Task {
    std::string name;
    int stream = 0;
    int after = -1;  ///< the task that it waits for, beside the one before it on its stream; -1: none
    emulation::TaskPlace place = {};
    friend bool operator==(const Task&, const Task&);
  };
  std::vector<std::string> streams;
  std::vector<Task> tasks;
  std::vector<std::int64_t> begins, ends;  ///< [dies][tasks] ns on the run's clock
};

struct StepReport {
  std::int64_t step = 0;  ///< of the instance, from 0
  struct Die {
    RunTime start{}, end{};
    WallTime wall_begin, wall_end;                  ///< of its own work, since the run began on its host
    double sequences = 0, tokens = 0, context = 0;  ///< as emulation::AttentionWork
    std::vector<std::byte> record;                  ///< encode_step(); empty unless records are wanted
  };
  std::vector<Die> dies;
  RunSpan exchange{};                    ///< dispatch and combine on the way to the last end
  WallTime wall_priced;                  ///< the first die had gathered and priced all records
  std::optional<StepTimeline> timeline;  ///< of the traced step
};

/// From the timelines of a StepPricer. @param starts, ends of the dies: the tasks lie within
StepTimeline step_timeline(std::span<const emulation::Timeline> timelines, std::span<const RunTime> starts,
                           std::span<const RunTime> ends);

std::vector<std::byte> encode_report(const StepReport& report);
/// @throws EnvironmentError saying what is wrong: too short, too long, sizes that do not fit each other.
StepReport decode_step_report(std::span<const std::byte> bytes);

}  // namespace supernode::serving
