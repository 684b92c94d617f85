#pragma once
// Nonblocking messages of whole lines, with deadlines that name the peer. For the algorithms that are made of sends and
// receives.

#include <cstddef>
#include <string_view>

#include "collectives/algorithms/wait_for_peer.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {

/// Tags of a round's messages: rounds in flight differ in `set`, and MPI keeps the order of the rounds of a set. `step`
/// tells the messages of one round from each other.
inline int message_tag(int set, int step) { return step * n_round_sets + set; }
/// For algorithms with one message to a peer in each phase.
inline int message_tag(int set, Phase phase) { return message_tag(set, static_cast<int>(phase)); }

/// Sends and receives of one algorithm.
class Messages {
 public:
  Messages(const ExchangeSetup& setup, const Communicator& comm);

  /// Starts to send `bytes`, whole lines; `from` must stay until `request` is done.
  void send(const std::byte* from, std::size_t bytes, int to, int tag, OwnedRequest& request) const;
  /// Starts to receive at most `bytes`, whole lines.
  void receive(std::byte* into, std::size_t bytes, int from, int tag, OwnedRequest& request) const;
  /// Whether a request is done, or none. Lets MPI work.
  static bool test(OwnedRequest& request) { return completed(*request.out()); }
  /// Waits for a request. `what` and `peer` are for the error: "no <what> message of round 3 from rank 2".
  /// @throws TimeoutError at the deadline.
  void finish_receive(OwnedRequest& request, const Round& round, std::string_view what, int peer) const;
  void finish_send(OwnedRequest& request, const Round& round, std::string_view what, int peer) const;

 private:
  template <class Describe>
  void wait(OwnedRequest& request, int peer, Describe&& describe) const {
    wait_for_peer(
        setup_, peer, [&] { return completed(*request.out()); }, describe);
  }

  const ExchangeSetup& setup_;
  const Communicator& comm_;
  OwnedDatatype line_;
};

}  // namespace supernode::collectives
