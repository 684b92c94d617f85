#include "runtime/core/mpi/mailbox.hpp"

#include <algorithm>
#include <exception>
#include <iterator>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode {
namespace {

/// Sends complete nearly in order, so a look at the oldest few is enough, and a silent peer does not make it slow.
constexpr std::size_t looks_at_a_time = 8;

/// MPI has received a message up to this size whole when it announces it; a larger one may need its sender to go on.
constexpr int largest_received_at_once = 4096;

}  // namespace

Mailbox::~Mailbox() {
  // While an error unwinds, requests are not waited for (handle.hpp), so MPI still uses these bytes: they must stay.
  if (std::uncaught_exceptions() == 0) return;
  new std::list<Outgoing>(std::move(outgoing_));
  new std::list<Arriving>(std::move(arriving_));
}

void Mailbox::send(int to, int tag, std::vector<std::byte> bytes) {
  collect_sent(looks_at_a_time);
  Outgoing& message = outgoing_.emplace_back();
  message.to = to;
  message.bytes = std::move(bytes);
  SUPERNODE_MPI(MPI_Isend(message.bytes.data(), count_cast(message.bytes.size(), "message bytes"), MPI_BYTE, to, tag,
                          comm_->get(), message.request.out()));
  bells_.ring(to);
}

std::optional<Message> Mailbox::poll() {
  collect_sent(looks_at_a_time);
  if (std::optional<Message> message = take_arrived()) return message;
  for (;;) {
    int found = 0;
    MPI_Message handle = MPI_MESSAGE_NULL;
    MPI_Status status;
    SUPERNODE_MPI(MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_->get(), &found, &handle, &status));
    if (!found) return std::nullopt;
    int count = 0;
    SUPERNODE_MPI(MPI_Get_count(&status, MPI_BYTE, &count));
    Message message{status.MPI_SOURCE, status.MPI_TAG, std::vector<std::byte>(static_cast<std::size_t>(count)), 0};
    if (count <= largest_received_at_once && !is_arriving_from(message.source)) {
      SUPERNODE_MPI(MPI_Mrecv(message.bytes.data(), count, MPI_BYTE, &handle, MPI_STATUS_IGNORE));
      return message;
    }
    Arriving& arriving = arriving_.emplace_back();
    arriving.message = std::move(message);
    arriving.since = wall_now();
    SUPERNODE_MPI(MPI_Imrecv(arriving.message.bytes.data(), count, MPI_BYTE, &handle, arriving.request.out()));
    if (std::optional<Message> arrived = take_arrived()) return arrived;
  }
}

bool Mailbox::is_arriving_from(int source) const {
  return std::any_of(arriving_.begin(), arriving_.end(),
                     [&](const Arriving& one) { return one.message.source == source; });
}

std::optional<Message> Mailbox::take_arrived() {
  for (auto one = arriving_.begin(); one != arriving_.end(); ++one) {
    // An older message of the same source comes first.
    const bool waits = std::any_of(arriving_.begin(), one,
                                   [&](const Arriving& older) { return older.message.source == one->message.source; });
    if (waits || !completed(*one->request.out())) continue;
    Message message = std::move(one->message);
    const WallTime now = wall_now();
    message.receiving_s = (now - one->since).value;
    arriving_.erase(one);
    for (Arriving& next : arriving_)
      if (next.message.source == message.source) next.since = now;
    return message;
  }
  return std::nullopt;
}

void Mailbox::flush(double deadline_s) {
  wait_until(
      [&] {
        collect_sent(std::numeric_limits<std::size_t>::max());
        return outgoing_.empty();
      },
      deadline_s,
      [&] { return fmt::format("rank {}: rank {} did not take a message", comm_->rank(), outgoing_.front().to); },
      Idle::sleep);
}

void Mailbox::collect_sent(std::size_t most) {
  const std::size_t looks = std::min(most, outgoing_.size());
  auto message = outgoing_.begin();
  for (std::size_t look = 0; look < looks; ++look) {
    if (completed(*message->request.out())) {
      message = outgoing_.erase(message);
    } else {
      // To the back: messages to others must not wait behind it.
      const auto stuck = message++;
      outgoing_.splice(outgoing_.end(), outgoing_, stuck);
    }
  }
}

}  // namespace supernode
