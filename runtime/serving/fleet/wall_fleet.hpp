#pragma once
// The fleet on the wall clock: events come as they happen, commands leave as messages.

#include "runtime/serving/coordinator/fleet.hpp"
#include "runtime/serving/coordinator/request_source.hpp"
#include "runtime/serving/fleet/fleet_link.hpp"

namespace supernode::serving {

/// Rank 0 only.
class WallFleet : public Fleet {
 public:
  /// Time 0 is now. The references outlive the fleet.
  /// @param deadline_s longest that a die may owe a report @param clock the wall clock; tests have their own
  WallFleet(const ServingConfig& config, RequestSource& source, MessagePort& port, double deadline_s,
            WallTime (*clock)() = wall_now);

  /// Waits for the next arrival or report. @throws TimeoutError naming the rank that owes a report for longer than the
  /// deadline; EnvironmentError naming a rank whose message is malformed, or was not owed.
  Event next() override;
  void perform(const Command& command, RunTime time) override { link_.send(command, time); }
  bool quiet() const override { return source_.closed() && link_.quiet(); }
  std::map<std::string, std::uint64_t> miss_reasons() const override { return missed_; }
  /// @throws as next(); a message that is not a worker's last one is not taken for it.
  WorkerStatistics stop(Unfinished unfinished) override { return link_.stop(run_time(link_.now()), unfinished); }

 private:
  RunTime run_time(WallTime wall) const { return RunTime(run_span((wall - start_).value)); }

  RequestSource& source_;
  FleetLink link_;
  const WallTime start_;
  std::map<std::string, std::uint64_t> missed_;  ///< blocks, by reason
};

}  // namespace supernode::serving
