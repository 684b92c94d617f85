#pragma once
// The MPI session: initialised once, first in and last out.

#include <string>

namespace supernode {

/// MPI_Init_thread (FUNNELED) in the constructor, MPI_Finalize in the destructor. Create it first and keep every MPI
/// object in an inner scope.
class Session {
 public:
  /// Sets the Open MPI parameters that one-sided communication needs (see platform_defaults), then initialises MPI.
  /// @throws EnvironmentError when MPI cannot give thread level FUNNELED, and when a launcher started several ranks of
  /// which each finds itself alone: it is another MPI's.
  Session(int& argc, char**& argv);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
};

/// Open MPI 4 over TCP has one working one-sided component (osc/pt2pt), which Debian's configuration switches off, and
/// its default within a host crashes in 64-bit compare-and-swap: choose osc sm,pt2pt unless the user chose one, or the
/// host has an RDMA device, or the library is another. Also lets idle ranks yield when ranks outnumber processors.
/// Before MPI_Init.
void platform_defaults();

/// Lets the ranks of a host yield while they wait inside MPI, when their affinities give them no processor each; ranks
/// that have one must not, since that slows small messages. Keeps what the user has set. Collective over the world,
/// after MPI_Init. @returns whether this host's ranks share processors
bool yield_on_shared_processors();

/// Ends the whole job, all its ranks, with this code. What was written to stdout and stderr is given the time to come
/// through the launcher, which else may drop it.
[[noreturn]] void abort_job(int code);

std::string host_name();

}  // namespace supernode
