#include "runtime/serving/workers/worker_inbox.hpp"

#include <fmt/format.h>

#include "runtime/core/mpi/deadline.hpp"

namespace supernode::serving {

WorkerInbox::WorkerInbox(const WorkerContext& context) : context_(context), mailbox_(*context.control) {}

Message WorkerInbox::wait(const std::function<bool()>& background) {
  Deadline patience(context_.deadline_s);
  SpinWait spin(true);
  for (;;) {
    if (std::optional<Message> message = mailbox_.poll()) {
      if (static_cast<MessageKind>(message->tag) != MessageKind::keep_alive) return std::move(*message);
      patience = Deadline(context_.deadline_s);
    }
    if (background()) {
      spin.reset();
    } else {
      spin.turn();
    }
    if (patience.expired())
      throw TimeoutError(
          fmt::format("rank {} ({} instance {}, die {}) heard nothing from the coordinator (rank 0) within {} s",
                      context_.control->rank(), to_string(context_.part.role), context_.part.instance,
                      context_.part.die, context_.deadline_s));
  }
}

void WorkerInbox::report(MessageKind kind, std::vector<std::byte> bytes) {
  mailbox_.send(0, static_cast<int>(kind), std::move(bytes));
}

void WorkerInbox::report_stopped(const std::string& text) {
  report(MessageKind::stopped, ByteWriter().put_all(std::span<const char>(text)).take());
  mailbox_.flush(context_.deadline_s);
}

}  // namespace supernode::serving
