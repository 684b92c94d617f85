#include "runtime/core/mpi/silent_ranks.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode {
namespace {

constexpr int sign_tag = 32767;  // the largest that every MPI has
constexpr double patience_s = 1;

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

}  // namespace

std::string find_silent_ranks(const Communicator& comm) {
  // The requests stay with MPI: some will never end.
  static char nothing = 0;
  const std::vector<int> world = world_ranks(comm);
  std::vector<bool> present(world.size());
  present[static_cast<std::size_t>(comm.rank())] = true;
  for (std::size_t rank = 0; rank < world.size(); ++rank) {
    MPI_Request request = MPI_REQUEST_NULL;
    if (!present[rank]) MPI_Isend(&nothing, 0, MPI_CHAR, world[rank], sign_tag, MPI_COMM_WORLD, &request);
  }
  const Deadline deadline(patience_s);
  SpinWait spin(Idle::sleep);
  while (!deadline.expired() && std::find(present.begin(), present.end(), false) != present.end()) {
    int found = 0;
    MPI_Status status;
    SUPERNODE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, sign_tag, MPI_COMM_WORLD, &found, &status));
    if (found == 0) {
      spin.turn();
      continue;
    }
    SUPERNODE_MPI(MPI_Recv(&nothing, 0, MPI_CHAR, status.MPI_SOURCE, sign_tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
    const auto caller = std::find(world.begin(), world.end(), status.MPI_SOURCE);
    if (caller != world.end()) present[static_cast<std::size_t>(caller - world.begin())] = true;
  }
  std::string text;
  for (std::size_t rank = 0; rank < world.size(); ++rank)
    if (!present[rank]) text += (text.empty() ? "; silent: rank " : ", rank ") + std::to_string(rank);
  return text;
}

}  // namespace supernode
