#pragma once
// Small messages between ranks, sent without waiting and received by polling.

#include <cstddef>
#include <list>
#include <optional>
#include <vector>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode::serving {

struct Message {
  int source = 0;
  int tag = 0;
  std::vector<std::byte> bytes;
};

/// Owns the bytes of a message until MPI has sent them. Messages from one rank to another arrive in the order of
/// sending. Borrowed communicator: it must outlive the mailbox, and nothing else may receive on it.
class Mailbox {
 public:
  explicit Mailbox(const Communicator& comm) : comm_(&comm) {}
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  /// Does not wait. The bytes are kept here until they are gone.
  void send(int to, int tag, std::vector<std::byte> bytes);
  /// The next message of anyone, if one is here. Also lets sends go on.
  std::optional<Message> poll();
  /// Waits until all sends are gone. @throws TimeoutError naming a rank that does not receive.
  void flush(double deadline_s);

 private:
  struct Outgoing {
    int to = 0;
    std::vector<std::byte> bytes;
    OwnedRequest request;
  };
  void collect_sent();

  const Communicator* comm_;
  std::list<Outgoing> outgoing_;  ///< a list: MPI holds pointers into the elements
};

}  // namespace supernode::serving
