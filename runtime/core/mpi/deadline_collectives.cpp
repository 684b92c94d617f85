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

/// Each value becomes `operation` of those of all ranks.
void reduce(const Communicator& comm, std::span<double> values, MPI_Op operation, double deadline_s,
            const std::string& occasion) {
  struct Buffers {
    std::vector<double> sent, result;
  };
  auto b = std::make_unique<Buffers>();
  b->sent.assign(values.begin(), values.end());
  b->result.resize(values.size());
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Iallreduce(b->sent.data(), b->result.data(), count_cast(values.size()), MPI_DOUBLE, operation,
                               comm.get(), &request));
  await_all(comm, request, deadline_s, occasion, b);
  std::copy(b->result.begin(), b->result.end(), values.begin());
}

}  // namespace

void meet(const Communicator& comm, double deadline_s) {
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Ibarrier(comm.get(), &request));
  await_all(comm, request, deadline_s, "a barrier");
}

void take_largest(const Communicator& comm, std::span<double> values, double deadline_s, const std::string& occasion) {
  reduce(comm, values, MPI_MAX, deadline_s, occasion);
}

void add_up(const Communicator& comm, std::span<double> values, double deadline_s, const std::string& occasion) {
  reduce(comm, values, MPI_SUM, deadline_s, occasion);
}

void exchange(const Communicator& comm, std::unique_ptr<FloatExchange>& floats, double deadline_s,
              const std::string& occasion) {
  FloatExchange& f = *floats;
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Ialltoallv(f.sent.data(), f.send_counts.data(), f.send_offsets.data(), MPI_FLOAT, f.received.data(),
                               f.receive_counts.data(), f.receive_offsets.data(), MPI_FLOAT, comm.get(), &request));
  await_all(comm, request, deadline_s, occasion, floats);
}

}  // namespace supernode
