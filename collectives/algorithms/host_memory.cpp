#include "collectives/algorithms/host_memory.hpp"

#include <new>

#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/shared_window.hpp"

namespace supernode::collectives {

HostMemory::HostMemory(const ExchangeSetup& setup, const Communicator& comm, std::size_t bytes, std::size_t flags)
    : own_(setup.rank),
      bytes_(bytes + segment_overhead_bytes),
      host_(comm.split(setup.host(), setup.rank)),
      segments_(setup.n_ranks) {
  const std::string who = "exchange algorithm '" + std::string(setup.algorithm) + "'";
  window_ =
      allocate_shared_window(comm, host_, bytes_, {who, "choose another algorithm, or fewer tokens or ranks"}).window;
  if (!window_)
    throw EnvironmentError(who + ": this MPI library refuses MPI_Win_allocate_shared (its one-sided component)");
  const auto members = setup.hosts.members(setup.host());
  for (std::size_t member = 0; member < members.size(); ++member) {
    MPI_Aint size = 0;
    int unit = 0;
    std::byte*& segment = segments_[members[member]];
    SUPERNODE_MPI(MPI_Win_shared_query(window_.get(), static_cast<int>(member), &size, &unit, &segment));
    // Open MPI puts a segment anywhere in a page; all processes see it at the same place in the page.
    const auto address = reinterpret_cast<std::uintptr_t>(segment);
    segment += whole_lines(address) - address;
  }
  for (std::size_t i = 0; i < flags; ++i) new (own() + sizeof(Flag) * i) Flag;
  host_.barrier();  // nobody writes a flag before it exists
}

}  // namespace supernode::collectives
