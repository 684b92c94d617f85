#pragma once
// Messages between ranks, sent without waiting and received by polling.

#include <cstddef>
#include <list>
#include <optional>
#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/core/message_port.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/doorbell.hpp"

namespace supernode {

/// Owns the bytes of a message until MPI has moved them. A large message that is still on its way holds nobody up:
/// poll() returns what is here whole, and keeps the order of each source.
class Mailbox : public MessagePort {
 public:
  /// Borrows the communicator: it outlives the mailbox, and nothing else receives on it.
  explicit Mailbox(const Communicator& comm) : comm_(&comm), bells_(comm) {}
  /// Waits for what is on its way, unless an error unwinds: then MPI keeps the bytes, and this process will end.
  ~Mailbox() override;
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  /// @throws UsageError for a message beyond 2 GiB, which MPI cannot count.
  void send(int to, int tag, std::vector<std::byte> bytes) override;
  std::optional<Message> poll() override;
  void flush(double deadline_s) override;
  /// Messages that MPI has not taken yet.
  std::size_t unsent() const { return outgoing_.size(); }

 private:
  struct Outgoing {
    int to = 0;
    std::vector<std::byte> bytes;
    OwnedRequest request;
  };
  struct Arriving {
    Message message;
    WallTime since;  ///< its announcement is here, and all of its source before it
    OwnedRequest request;
  };
  void collect_sent(std::size_t most);
  std::optional<Message> take_arrived();
  bool is_arriving_from(int source) const;

  const Communicator* comm_;
  PeerBells bells_;
  // Lists: MPI holds pointers into the elements.
  std::list<Outgoing> outgoing_;
  std::list<Arriving> arriving_;
};

}  // namespace supernode
