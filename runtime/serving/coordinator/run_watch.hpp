#pragma once
// Looks on while the coordinator serves, for the figures over time and the lines of progress. Changes nothing.

#include <functional>
#include <optional>

#include "runtime/serving/coordinator/fleet.hpp"
#include "runtime/serving/coordinator/scheduler.hpp"
#include "runtime/serving/coordinator/token_sink.hpp"
#include "runtime/serving/load/iterations.hpp"
#include "runtime/serving/load/progress.hpp"
#include "runtime/serving/load/run_series.hpp"

namespace supernode::serving {

/// Stands between the scheduler and the sink of a run, and is told of each event that was handled.
class RunWatch : public TokenSink {
 public:
  using Tell = std::function<void(const std::string& line)>;

  /// @param sink gets all tokens; outlives the watch
  explicit RunWatch(TokenSink& sink) : sink_(sink) {}
  /// From now on `tell` gets the lines of `progress` as they are due. @param clock that `progress` runs on
  void report(Progress progress, Tell tell, WallTime (*clock)() = wall_now);

  void on_token(RequestId request, std::int32_t token, RunTime time) override;
  void on_end(ServedRequest served) override;

  /// After each event, when what it led to has been ordered. O(1), and O(decode dies) when a step has ended.
  void after(const Event& event, const Scheduler& scheduler, const Fleet& fleet);

  /// What happened so far.
  std::vector<SeriesTable> series() const { return series_.tables(); }
  /// Decode iterations that have ended, of all instances in order of their ends.
  const std::vector<Iteration>& iterations() const { return iterations_; }

 private:
  struct Reporting {
    Progress progress;
    Tell tell;
    WallTime (*clock)();
  };

  void count_iterations();

  TokenSink& sink_;
  RunSeries series_;
  LoadSnapshot now_;
  std::vector<Iteration> iterations_;
  std::vector<std::uint64_t> counted_;  ///< [decode instances] iterations that are in iterations_
  ProgressCounts counts_;
  std::optional<Reporting> reporting_;
};

}  // namespace supernode::serving
