#pragma once
// The coordinator's view of its workers on the wall clock: events come as they happen, commands leave as messages.

#include <map>
#include <vector>

#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/serving/coordinator/events.hpp"
#include "runtime/serving/load/workload.hpp"
#include "runtime/serving/serving_config.hpp"
#include "runtime/serving/wire/wire.hpp"

namespace supernode::serving {

class WallFleet : public EventSource, public CommandSink {
 public:
  /// Time 0 is now. The references outlive the fleet. Rank 0 only.
  WallFleet(const ServingConfig& config, const std::vector<Request>& requests, Mailbox& mailbox, double deadline_s);

  /// Waits for the next arrival or report. @throws TimeoutError naming the rank that owes a report for longer than the
  /// deadline.
  Event next() override;
  void perform(const Command& command, Nanoseconds now) override;

  /// Tells all workers to stop and collects what each has to say (its statistics, as text), by rank.
  /// @throws TimeoutError naming a rank that does not.
  std::map<int, std::string> stop();

  Nanoseconds now() const;

 private:
  void send(int rank, MessageKind kind, std::vector<std::byte> bytes);
  void expect_report(int rank, const char* what);
  Event decode(const Message& message);
  /// Now and then tells the workers that the coordinator is there, and looks at what they owe.
  /// @throws TimeoutError when one owes a report for too long.
  void watch();

  const ServingConfig& config_;
  const std::vector<Request>& requests_;
  Mailbox& mailbox_;
  const double deadline_s_;
  const double start_s_;
  double last_watch_s_;
  std::vector<std::size_t> by_arrival_;  ///< requests in order of arrival
  std::size_t next_arrival_ = 0;
  struct Owed {
    const char* what = "";
    int count = 0;
    double since_s = 0;
  };
  std::map<int, Owed> owed_;  ///< rank -> reports it owes
};

}  // namespace supernode::serving
