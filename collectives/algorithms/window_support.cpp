#include "collectives/algorithms/window_support.hpp"

#include <fmt/format.h>

#include "collectives/rows/layout.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/handle.hpp"
#include "runtime/core/mpi/mpi_library.hpp"
#include "runtime/core/mpi/shared_window.hpp"

namespace supernode::collectives {

WindowSupport probe_windows(const Communicator& comm, const HostMap& hosts) {
  WindowSupport support;
  const auto everywhere = [&](int code) { return comm.max(static_cast<long long>(code != MPI_SUCCESS)) == 0; };
  {
    const Communicator host = comm.split(hosts.host_of(comm.rank()), comm.rank());
    const SharedWindow probe = allocate_shared_window(
        comm, host, line_bytes, {"the token exchange", "choose an algorithm that needs no shared memory"});
    support.shared = everywhere(probe.window ? MPI_SUCCESS : MPI_ERR_WIN);
  }
  if (hosts.hosts() > 1) {
    std::byte memory[line_bytes];
    OwnedWindow window;
    support.remote = everywhere(MPI_Win_create(memory, line_bytes, 1, MPI_INFO_NULL, comm.get(), window.out()));
  }
  return support;
}

void require_windows(const AlgorithmEntry& entry, int hosts, const WindowSupport& support) {
  if (works(entry, hosts, support)) return;
  const std::string component = mpi_control_variable("osc");
  std::string others;
  for (const AlgorithmEntry& other : algorithms())
    if (works(other, hosts, support)) others += fmt::format(", {}", other.name);
  throw EnvironmentError(fmt::format(
      "exchange algorithm '{}' needs {}, which this MPI refuses{}; choose another one-sided component, or an algorithm "
      "that works here: auto{}",
      entry.name,
      support.shared ? "one-sided windows between hosts (MPI_Win_create)"
                     : "memory that the ranks of a host share (MPI_Win_allocate_shared)",
      component.empty() ? std::string() : fmt::format(" with its one-sided component osc '{}'", component), others));
}

}  // namespace supernode::collectives
