#pragma once
// A worker's end of the control messages: the coordinator's next order, reports to it, and giving up when it is silent.

#include <functional>

#include "runtime/serving/wire/messages.hpp"
#include "runtime/serving/workers/worker.hpp"

namespace supernode::serving {

class WorkerInbox {
 public:
  /// `context` outlives it.
  explicit WorkerInbox(const WorkerContext& context) : context_(context) {}

  /// The coordinator's next order, never a keep-alive; `background()` runs at each turn and returns whether it did
  /// something. @throws TimeoutError when nothing, not even a keep-alive, came for the deadline; EnvironmentError
  /// naming rank and reason for a message that is no order, or comes from elsewhere.
  Stamped<Order> wait(const std::function<bool()>& background);

  void report(const Report& report, RunTime stamp = {});
  /// The last report. Waits until all sends are gone.
  void report_stopped(WorkerStatistics statistics);

  /// For an order that this kind of worker does not take.
  [[noreturn]] void refuse(const Order& order) const;
  /// "rank 5 (decode instance 0, die 1)", for messages
  std::string where() const;

 private:
  const WorkerContext& context_;
};

}  // namespace supernode::serving
