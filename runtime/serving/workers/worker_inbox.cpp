#include "runtime/serving/workers/worker_inbox.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline.hpp"

namespace supernode::serving {

std::string WorkerInbox::where() const {
  const Part& part = context_.part;
  return fmt::format("rank {} ({} instance {}, die {})", context_.rank, to_string(part.role), part.instance, part.die);
}

Stamped<Order> WorkerInbox::wait(const std::function<bool()>& background) {
  Deadline patience(context_.deadline_s);
  // What the pool's owners answer has no bell.
  SpinWait spin(context_.pool ? Idle::sleep : Idle::bell);
  for (;;) {
    if (const std::optional<Message> message = context_.control->poll()) {
      try {
        if (message->source != 0) throw EnvironmentError(fmt::format("order from rank {}", message->source));
        Stamped<Order> order = decode_order(message->bytes);
        if (!std::holds_alternative<KeepAlive>(order.what)) return order;
      } catch (const EnvironmentError& error) {
        throw EnvironmentError(fmt::format("{}: {}", where(), error.what()));
      }
      patience = Deadline(context_.deadline_s);
    }
    if (background()) {
      spin.reset();
    } else {
      spin.turn();
    }
    if (patience.expired())
      throw TimeoutError(
          fmt::format("{} heard nothing from the coordinator (rank 0) within {} s", where(), context_.deadline_s));
  }
}

void WorkerInbox::report(const Report& report, RunTime stamp) {
  context_.control->send(0, static_cast<int>(kind_of(report)), encode(report, stamp));
}

void WorkerInbox::report_stopped(WorkerStatistics statistics) {
  report(StoppedReport{std::move(statistics)});
  context_.control->flush(context_.deadline_s);
}

void WorkerInbox::refuse(const Order& order) const {
  throw EnvironmentError(fmt::format("{}: order '{}' is not for it", where(), name_of(kind_of(order))));
}

}  // namespace supernode::serving
