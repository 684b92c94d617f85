#pragma once
// The coordinator's end of the control messages, whatever clock a run is on: orders leave, reports that were owed come
// in, and a worker that stays silent is named. Its deadlines are on the wall clock.

#include <optional>
#include <set>
#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/core/message_port.hpp"
#include "runtime/serving/coordinator/liveness.hpp"
#include "runtime/serving/fleet/step_intake.hpp"
#include "runtime/serving/wire/fleet_wire.hpp"

namespace supernode::serving {

/// Rank 0 only.
class FleetLink {
 public:
  /// The references outlive it. @param deadline_s longest that a die may owe a report @param clock tests have their own
  /// @param steps gets the reports of steps; null where none are asked for
  FleetLink(const ServingConfig& config, MessagePort& port, double deadline_s, WallTime (*clock)(),
            CacheOrders cache = CacheOrders::pool, StepLog* steps = nullptr);

  WallTime now() const { return clock_(); }
  void send(std::vector<Outgoing> messages);
  void send(const Command& command, RunTime stamp);

  /// The next report that is here, if it was owed. Reports of steps that come before it go to their log; what dies of
  /// abandoned instances report, and what KV has come for nobody, is thrown away. @throws EnvironmentError naming a rank
  /// whose message is malformed, or was not owed.
  std::optional<Stamped<FleetWire::Incoming>> poll();
  /// Keep-alives, when they are due. At each turn, also while reports keep coming: an idle worker must hear from the
  /// coordinator all the same.
  void keep_alive(WallTime looked, RunTime stamp);
  /// The report that has been owed for longest, if that is the deadline or longer. Call it only when no message waits:
  /// what is owed may be among those.
  std::optional<Overdue> overdue(WallTime looked) const;
  /// Likewise. @throws TimeoutError naming the rank that has owed a report for the deadline.
  void give_up_if_overdue(WallTime looked) const;
  /// No die owes a report.
  bool quiet() const { return liveness_.quiet(); }

  /// Tells all dies to stop. @pre quiet() @returns what they counted, added up; dies of abandoned instances have stopped
  /// counting. @throws as poll(), give_up_if_overdue()
  WorkerStatistics stop(RunTime stamp, Unfinished unfinished);

 private:
  void abandon(InstanceId instance);
  const ServingConfig& config_;
  MessagePort& port_;
  const double deadline_s_;
  WallTime (*const clock_)();
  FleetWire wire_;
  Liveness liveness_;
  StepIntake steps_;
  std::set<int> abandoned_;  ///< ranks of instances that are lost
};

}  // namespace supernode::serving
