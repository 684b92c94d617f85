#pragma once
// The one macro around MPI calls, the test of a request, and the narrowing of counts that MPI 3 wants as int.

#include <cstddef>
#include <source_location>

#include <mpi.h>

#include "runtime/core/error.hpp"

namespace supernode {

/// An MPI call failed; the communicator it used is dead. The message holds the call's text, its place and MPI's own
/// words.
class MpiError : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

/// Throws MpiError for `code`.
[[noreturn]] void throw_mpi_error(int code, const char* call, std::source_location where);

/// `count` as MPI's int. @throws EnvironmentError naming `what` above INT_MAX: chunk the transfer instead.
int count_cast(std::size_t count, const char* what = "count");

/// Whether the operation behind `request` has completed; then it is MPI_REQUEST_NULL. For wait_until() and service
/// loops. @throws MpiError when it failed.
bool completed(MPI_Request& request);

}  // namespace supernode

/// SUPERNODE_MPI(MPI_Barrier(comm)); — throws MpiError when the call does not return MPI_SUCCESS.
#define SUPERNODE_MPI(call)                                                                      \
  do {                                                                                           \
    const int supernode_mpi_code_ = (call);                                                      \
    if (supernode_mpi_code_ != MPI_SUCCESS)                                                      \
      ::supernode::throw_mpi_error(supernode_mpi_code_, #call, std::source_location::current()); \
  } while (false)
