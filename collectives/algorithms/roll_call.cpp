#include "collectives/algorithms/roll_call.hpp"

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {
namespace {

constexpr int roll_tag = 32767;  // the largest that every MPI has
constexpr double roll_s = 1;

/// Numbers in the world, of which all parts of a program are a part. Nobody else sends there: everything has a
/// communicator of its own.
std::vector<int> world_ranks(const Communicator& comm) {
  std::vector<int> here(static_cast<std::size_t>(comm.size())), world(here.size());
  std::iota(here.begin(), here.end(), 0);
  MPI_Group group = MPI_GROUP_NULL, world_group = MPI_GROUP_NULL;
  SUPERNODE_MPI(MPI_Comm_group(comm.get(), &group));
  SUPERNODE_MPI(MPI_Comm_group(MPI_COMM_WORLD, &world_group));
  SUPERNODE_MPI(MPI_Group_translate_ranks(group, comm.size(), here.data(), world_group, world.data()));
  MPI_Group_free(&group);
  MPI_Group_free(&world_group);
  return world;
}

/// `request` of a collective operation; it stays with MPI when the wait fails.
void await_all(const Communicator& comm, MPI_Request request, double deadline_s, const char* what) {
  try {
    wait_until([&] { return completed(request); }, deadline_s,
               [&] { return "rank " + std::to_string(comm.rank()) + ": not all ranks came to " + what; });
  } catch (const TimeoutError& error) {
    throw TimeoutError(error.what() + call_the_roll(comm));
  }
}

}  // namespace

std::string call_the_roll(const Communicator& comm) {
  // The requests stay with MPI: some will never end.
  static char nothing = 0;
  const std::vector<int> world = world_ranks(comm);
  std::vector<bool> here(world.size());
  here[static_cast<std::size_t>(comm.rank())] = true;
  for (std::size_t rank = 0; rank < world.size(); ++rank) {
    MPI_Request request = MPI_REQUEST_NULL;
    if (!here[rank]) MPI_Isend(&nothing, 0, MPI_CHAR, world[rank], roll_tag, MPI_COMM_WORLD, &request);
  }
  const Deadline deadline(roll_s);
  SpinWait spin(true);
  while (!deadline.expired() && std::find(here.begin(), here.end(), false) != here.end()) {
    int found = 0;
    MPI_Status status;
    SUPERNODE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, roll_tag, MPI_COMM_WORLD, &found, &status));
    if (found == 0) {
      spin.turn();
      continue;
    }
    SUPERNODE_MPI(MPI_Recv(&nothing, 0, MPI_CHAR, status.MPI_SOURCE, roll_tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
    const auto caller = std::find(world.begin(), world.end(), status.MPI_SOURCE);
    if (caller != world.end()) here[static_cast<std::size_t>(caller - world.begin())] = true;
  }
  std::string text;
  for (std::size_t rank = 0; rank < world.size(); ++rank)
    if (!here[rank]) text += (text.empty() ? "; silent: rank " : ", rank ") + std::to_string(rank);
  return text;
}

void meet(const Communicator& comm, double deadline_s) {
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Ibarrier(comm.get(), &request));
  await_all(comm, request, deadline_s, "a barrier");
}

void take_largest(const Communicator& comm, std::span<double> values, double deadline_s) {
  // MPI may write until the end, and a wait that fails never sees it: what it writes to must outlive this call then.
  auto sent = std::make_unique<std::vector<double>>(values.begin(), values.end());
  auto largest = std::make_unique<std::vector<double>>(values.size());
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Iallreduce(sent->data(), largest->data(), count_cast(values.size()), MPI_DOUBLE, MPI_MAX,
                               comm.get(), &request));
  try {
    await_all(comm, request, deadline_s, "an agreement");
  } catch (const TimeoutError&) {
    static_cast<void>(sent.release());
    static_cast<void>(largest.release());
    throw;
  }
  std::copy(largest->begin(), largest->end(), values.begin());
}

}  // namespace supernode::collectives
