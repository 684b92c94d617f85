#pragma once
// The trace of a run on the modelled clock, for Perfetto and chrome://tracing: every step of every die, the tasks of one
// chosen step of each instance, the parts of every request, and the steps' wall time on the hosts. Pure.
//
//   process           threads
//   requests          none: a request is a span with its parts in it; counters: queue, hits and misses
//   prefill 0, ...    a die's steps; below them its two streams with the tasks of the chosen step; counters: requests in
//                     its batch, KV
//   wall: prefill 0   the same steps on the hosts' clock, from the run's beginning

#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/new_file.hpp"
#include "runtime/core/trace_events.hpp"
#include "runtime/serving/load/request_record.hpp"
#include "runtime/serving/load/run_series.hpp"
#include "runtime/serving/record/step_log.hpp"

namespace supernode::serving {

/// Writes events as they come and keeps none. Every method throws EnvironmentError when the disk refuses.
class TraceFile : public StepLog {
 public:
  struct Instance {
    InstanceId id;
    int dies = 0;
  };
  /// @param instances in the order in which they are shown @throws as NewFile
  TraceFile(const std::string& path, IfExists if_exists, const std::vector<Instance>& instances);

  void on_step(const InstanceId& instance, const StepReport& report) override;
  void add_requests(std::span<const ServedRequest> requests);
  /// Counters from the tables of RunSeries: levels as they are, what is counted by bin as a rate a second.
  void add_series(std::span<const SeriesTable> tables);
  /// Gives the file its name. The last call; without it nothing is left.
  void close();
  /// Whether the chosen step of any instance has come.
  bool has_tasks() const { return has_tasks_; }

 private:
  void name_rows(int process, const std::string& name, int dies);
  void add_wall(int process, const std::string& name, const StepReport& report);
  void add_tasks(int process, const StepReport& report);
  void add_request(const ServedRequest& served);
  void add_counter(int process, const std::string& name, std::span<const double> times_s, const SeriesTable& table,
                   std::size_t column, double factor);

  NewFile file_;
  TraceEvents events_;
  std::map<InstanceId, int> processes_;  ///< of the modelled clock; the wall's follow
  bool has_tasks_ = false;
};

}  // namespace supernode::serving
