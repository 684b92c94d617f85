#pragma once
// What both kinds of worker do between commands: poll for the next one, and give up on a silent coordinator.

#include <functional>

#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/serving/wire/wire.hpp"
#include "runtime/serving/workers/worker.hpp"

namespace supernode::serving {

class WorkerInbox {
 public:
  explicit WorkerInbox(const WorkerContext& context);

  /// The coordinator's next command; `background()` runs at each turn and returns whether it did something.
  /// @throws TimeoutError when nothing, not even a keep-alive, came for the deadline.
  Message wait(const std::function<bool()>& background);

  /// A report to the coordinator.
  void report(MessageKind kind, std::vector<std::byte> bytes);
  /// The last report: statistics as text. Waits until all sends are gone.
  void report_stopped(const std::string& text);

 private:
  const WorkerContext& context_;
  Mailbox mailbox_;
};

}  // namespace supernode::serving
