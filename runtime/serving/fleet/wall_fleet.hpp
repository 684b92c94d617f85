#pragma once
// The fleet on the wall clock: events come as they happen, commands leave as messages.

#include <optional>
#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/core/message_port.hpp"
#include "runtime/serving/coordinator/fleet.hpp"
#include "runtime/serving/coordinator/liveness.hpp"
#include "runtime/serving/coordinator/request_source.hpp"
#include "runtime/serving/wire/fleet_wire.hpp"

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
  void perform(const Command& command, RunTime now) override;
  bool quiet() const override { return source_.closed() && liveness_.quiet(); }
  /// @throws as next(); a message that is not a worker's last one is not taken for it.
  WorkerStatistics stop() override;

 private:
  RunTime run_time(WallTime wall) const { return RunTime(run_span((wall - start_).value)); }
  /// The next report that is here, if it was owed. @throws EnvironmentError as next()
  std::optional<FleetWire::Incoming> poll_report();
  void send(std::vector<Outgoing> messages);
  /// Call it only when no message waits: what is owed may be among those. @throws TimeoutError as next()
  void give_up_if_overdue(WallTime looked) const;

  const ServingConfig& config_;
  RequestSource& source_;
  MessagePort& port_;
  const double deadline_s_;
  WallTime (*const clock_)();
  const WallTime start_;
  FleetWire wire_;
  Liveness liveness_;
};

}  // namespace supernode::serving
