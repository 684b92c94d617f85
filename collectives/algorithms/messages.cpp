#include "collectives/algorithms/messages.hpp"

#include "collectives/algorithms/lines.hpp"

namespace supernode::collectives {

Messages::Messages(const ExchangeSetup& setup, const Communicator& comm)
    : setup_(setup), comm_(comm), line_(line_type()) {}

void Messages::send(const std::byte* from, std::size_t bytes, int to, int tag, OwnedRequest& request) const {
  SUPERNODE_MPI(MPI_Isend(from, lines_of(bytes), line_.get(), to, tag, comm_.get(), request.out()));
}

void Messages::receive(std::byte* into, std::size_t bytes, int from, int tag, OwnedRequest& request) const {
  SUPERNODE_MPI(MPI_Irecv(into, lines_of(bytes), line_.get(), from, tag, comm_.get(), request.out()));
}

void Messages::finish_receive(OwnedRequest& request, const Round& round, std::string_view what, int peer) const {
  wait(request, peer, [&] { return missing_message(round, what, peer); });
}

void Messages::finish_send(OwnedRequest& request, const Round& round, std::string_view what, int peer) const {
  wait(request, peer, [&] {
    return "the " + std::string(what) + " message of round " + std::to_string(round.number) +
           " was not taken by rank " + std::to_string(peer);
  });
}

}  // namespace supernode::collectives
