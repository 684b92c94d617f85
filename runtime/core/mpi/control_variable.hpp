#pragma once
// Parameters of the MPI library, as its tool interface (MPI_T) shows them.

#include <string>

namespace supernode {

/// The value of the text variable `name`; empty when this library has none of that name. Local.
std::string mpi_control_variable(const char* name);

}  // namespace supernode
