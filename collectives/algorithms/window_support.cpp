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

bool sufficient(Windows needed, int hosts, const WindowSupport& support) {
  if (needed == Windows::none) return true;
  return support.shared && (needed == Windows::shared || hosts == 1 || support.remote);
}

std::string what_is_missing(Windows needed, int hosts, const WindowSupport& support) {
  expect(!sufficient(needed, hosts, support), "nothing is missing");
  const std::string component = mpi_control_variable("osc");
  return fmt::format("needs {}, which this MPI refuses{}",
                     support.shared ? "one-sided windows between hosts (MPI_Win_create)"
                                    : "memory that the ranks of a host share (MPI_Win_allocate_shared)",
                     component.empty() ? "" : fmt::format(" with its one-sided component osc '{}'", component));
}

}  // namespace supernode::collectives
