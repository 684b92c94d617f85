#include "runtime/core/mpi/deadline_collectives.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/silent_ranks.hpp"

namespace supernode {
namespace {

/// `request` of a collective operation; it stays with MPI when the wait fails.
void await_all(const Communicator& comm, MPI_Request request, double deadline_s, const std::string& occasion) {
  try {
    wait_until([&] { return completed(request); }, deadline_s,
               [&] { return "rank " + std::to_string(comm.rank()) + ": not all ranks came to " + occasion; });
  } catch (const TimeoutError& error) {
    throw TimeoutError(error.what() + find_silent_ranks(comm));
  }
}

/// The same where MPI writes into `buffers`: it may do so until the end, and a wait that fails never sees it, so they then
/// outlive the call.
template <class Buffers>
void await_all(const Communicator& comm, MPI_Request request, double deadline_s, const std::string& occasion,
               std::unique_ptr<Buffers>& buffers) {
  try {
    await_all(comm, request, deadline_s, occasion);
  } catch (const TimeoutError&) {
    static_cast<void>(buffers.release());
    throw;
  }
}

}  // namespace

void meet(const Communicator& comm, double deadline_s) {
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Ibarrier(comm.get(), &request));
  await_all(comm, request, deadline_s, "a barrier");
}

std::vector<std::vector<std::byte>> gather_bytes(const Communicator& comm, std::span<const std::byte> bytes,
                                                 double deadline_s, const std::string& occasion) {
  struct Buffers {
    std::vector<std::byte> sent, received;
    std::int64_t size = 0;
    std::vector<std::int64_t> sizes;
    std::vector<int> counts, displacements;
  };
  auto b = std::make_unique<Buffers>();
  const auto ranks = static_cast<std::size_t>(comm.rank() == 0 ? comm.size() : 0);
  b->sent.assign(bytes.begin(), bytes.end());
  b->size = static_cast<std::int64_t>(bytes.size());
  b->sizes.resize(ranks);
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Igather(&b->size, 1, MPI_INT64_T, b->sizes.data(), 1, MPI_INT64_T, 0, comm.get(), &request));
  await_all(comm, request, deadline_s, occasion, b);
  std::int64_t total = 0;
  for (const std::int64_t size : b->sizes) {
    b->counts.push_back(count_cast(static_cast<std::size_t>(size)));
    b->displacements.push_back(count_cast(static_cast<std::size_t>(total)));
    total += size;
  }
  b->received.resize(static_cast<std::size_t>(total));
  SUPERNODE_MPI(MPI_Igatherv(b->sent.data(), count_cast(b->sent.size()), MPI_BYTE, b->received.data(), b->counts.data(),
                             b->displacements.data(), MPI_BYTE, 0, comm.get(), &request));
  await_all(comm, request, deadline_s, occasion, b);
  std::vector<std::vector<std::byte>> all(ranks);
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto first = b->received.begin() + b->displacements[rank];
    all[rank].assign(first, first + b->counts[rank]);
  }
  return all;
}

std::vector<std::int64_t> scatter(const Communicator& comm, std::span<const std::int64_t> values, int each,
                                  double deadline_s, const std::string& occasion) {
  struct Buffers {
    std::vector<std::int64_t> sent, mine;
  };
  auto b = std::make_unique<Buffers>();
  b->sent.assign(values.begin(), values.end());
  b->mine.resize(static_cast<std::size_t>(each));
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(
      MPI_Iscatter(b->sent.data(), each, MPI_INT64_T, b->mine.data(), each, MPI_INT64_T, 0, comm.get(), &request));
  await_all(comm, request, deadline_s, occasion, b);
  return b->mine;
}

void take_largest(const Communicator& comm, std::span<double> values, double deadline_s, const std::string& occasion) {
  struct Buffers {
    std::vector<double> sent, largest;
  };
  auto b = std::make_unique<Buffers>();
  b->sent.assign(values.begin(), values.end());
  b->largest.resize(values.size());
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Iallreduce(b->sent.data(), b->largest.data(), count_cast(values.size()), MPI_DOUBLE, MPI_MAX,
                               comm.get(), &request));
  await_all(comm, request, deadline_s, occasion, b);
  std::copy(b->largest.begin(), b->largest.end(), values.begin());
}

}  // namespace supernode
