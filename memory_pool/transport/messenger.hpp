#pragma once
// Small messages that nobody blocks on: sends keep their bytes until MPI is done with them, receives are polled.

#include <cstddef>
#include <list>
#include <span>
#include <vector>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode::pool::internal {

enum class Tag : int { request = 1, reply = 2 };

class Messenger {
 public:
  /// `comm` outlives it.
  explicit Messenger(const Communicator& comm) : comm_(comm) {}

  void send(int to, Tag tag, std::span<const std::byte> head, std::span<const std::byte> body = {});
  /// Hands at most 64 arrived messages to handler(int source, Tag tag, span of bytes). @returns whether any had
  /// arrived.
  template <class Handler>
  bool poll(Handler&& handler) {
    sweep();
    int source = 0;
    Tag tag{};
    int handled = 0;
    for (; handled < 64 && receive(source, tag); ++handled) handler(source, tag, std::span<const std::byte>(inbox_));
    return handled > 0;
  }
  /// Messages that MPI has not taken yet.
  std::size_t unsent() const { return outgoing_.size(); }

 private:
  struct Outgoing {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  bool receive(int& source, Tag& tag);
  void sweep();

  const Communicator& comm_;
  std::list<Outgoing> outgoing_;
  std::vector<std::byte> inbox_;  ///< the message being handled
};

}  // namespace supernode::pool::internal
