#include "collectives/algorithms/host_memory.hpp"

#include <new>

#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/sizes.hpp"

namespace supernode::collectives {

HostMemory::HostMemory(const ExchangeSetup& setup, const Communicator& comm, std::size_t bytes, std::size_t flags)
    : own_(setup.rank),
      bytes_(bytes + segment_overhead_bytes),
      host_(comm.split(setup.host(), setup.rank)),
      segments_(setup.n_ranks) {
  OwnedInfo info;
  SUPERNODE_MPI(MPI_Info_create(info.out()));
  SUPERNODE_MPI(MPI_Info_set(info.get(), "alloc_shared_noncontig", "true"));
  std::byte* mine = nullptr;  // asked for again, as everyone's
  if (MPI_Win_allocate_shared(static_cast<MPI_Aint>(bytes_), 1, info.get(), host_.get(), &mine, window_.out()) !=
      MPI_SUCCESS)
    throw EnvironmentError("exchange algorithm '" + std::string(setup.algorithm) + "': no shared memory of " +
                           format_size(static_cast<double>(bytes)) + " for each of " + std::to_string(host_.size()) +
                           " ranks of a host (is /dev/shm large enough?)");
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
