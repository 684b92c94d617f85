#include "memory_pool/transport/messenger.hpp"

#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::pool::internal {

void Messenger::send(int to, Tag tag, std::span<const std::byte> head, std::span<const std::byte> body) {
  Outgoing& message = outgoing_.emplace_back();
  message.bytes.reserve(head.size() + body.size());
  message.bytes.insert(message.bytes.end(), head.begin(), head.end());
  message.bytes.insert(message.bytes.end(), body.begin(), body.end());
  SUPERNODE_MPI(MPI_Isend(message.bytes.data(), count_cast(message.bytes.size()), MPI_BYTE, to, static_cast<int>(tag),
                          comm_.get(), &message.request));
  sweep();
}

void Messenger::sweep() {
  // Sends complete nearly in order; look at the oldest few only, so that a silent peer does not make this slow.
  int looks = 0;
  for (auto it = outgoing_.begin(); it != outgoing_.end() && looks < 8; ++looks) {
    if (completed(it->request)) {
      it = outgoing_.erase(it);
    } else {
      // To the back: those to other peers must not wait behind it.
      const auto stuck = it++;
      outgoing_.splice(outgoing_.end(), outgoing_, stuck);
    }
  }
}

bool Messenger::receive(int& source, Tag& tag) {
  int there = 0;
  MPI_Status status;
  SUPERNODE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_.get(), &there, &status));
  if (!there) return false;
  int bytes = 0;
  SUPERNODE_MPI(MPI_Get_count(&status, MPI_BYTE, &bytes));
  inbox_.resize(static_cast<std::size_t>(bytes));
  SUPERNODE_MPI(
      MPI_Recv(inbox_.data(), bytes, MPI_BYTE, status.MPI_SOURCE, status.MPI_TAG, comm_.get(), MPI_STATUS_IGNORE));
  source = status.MPI_SOURCE;
  tag = static_cast<Tag>(status.MPI_TAG);
  return true;
}

}  // namespace supernode::pool::internal
