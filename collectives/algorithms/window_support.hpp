#pragma once
// Which one-sided windows this MPI gives. A site may have chosen a one-sided component that refuses some.

#include <string>

#include "collectives/rows/host_map.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

/// Windows that an algorithm works with.
enum class Windows {
  none,               ///< messages only
  shared,             ///< shared memory within hosts
  shared_and_remote,  ///< that, and one-sided transfers where there are several hosts
};

/// Windows that MPI gives; equal on all ranks.
struct WindowSupport {
  bool shared = true;  ///< memory that the ranks of a host share
  bool remote = true;  ///< transfers between hosts
};

/// Asks MPI for a small window of each kind that ranks at these places may need. Collective; all ranks get the same
/// answer: a kind is there when every rank has got its window.
WindowSupport probe_windows(const Communicator& comm, const HostMap& hosts);

/// Whether `support` has what is needed among the ranks of `hosts` hosts. Pure.
bool sufficient(Windows needed, int hosts, const WindowSupport& support);

/// "needs <a kind of window>, which this MPI refuses with its one-sided component osc '<name>'". For windows that are
/// not sufficient().
std::string what_is_missing(Windows needed, int hosts, const WindowSupport& support);

}  // namespace supernode::collectives
