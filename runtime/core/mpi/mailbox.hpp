#pragma once
// Small messages between ranks, sent without waiting and received by polling.

#include <cstddef>
#include <list>
#include <optional>
#include <span>
#include <vector>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode {

struct Message {
  int source = 0;
  int tag = 0;
  std::vector<std::byte> bytes;
};

/// Owns the bytes of a message until MPI has sent them. Messages of one tag from one rank to another arrive in the
/// order of sending. Not for two threads at once.
class Mailbox {
 public:
  /// Borrows the communicator: it outlives the mailbox, and nothing else receives on it.
  explicit Mailbox(const Communicator& comm) : comm_(&comm) {}
  /// Waits for the sends, unless an error unwinds: then MPI keeps the bytes, and this process will end.
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  /// Does not wait; the bytes are kept here until they are gone.
  void send(int to, int tag, std::vector<std::byte> bytes);
  /// The next message of anyone, if one is here. Also lets sends go on.
  std::optional<Message> poll();
  /// Messages that MPI has not taken yet.
  std::size_t unsent() const { return outgoing_.size(); }
  /// Waits until all sends are gone. @throws TimeoutError naming a rank that does not receive.
  void flush(double deadline_s);

 private:
  struct Outgoing {
    int to = 0;
    std::vector<std::byte> bytes;
    OwnedRequest request;
  };
  void collect_sent(std::size_t most);

  const Communicator* comm_;
  std::list<Outgoing> outgoing_;  ///< a list: MPI holds pointers into the elements
};

}  // namespace supernode
