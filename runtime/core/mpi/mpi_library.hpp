#pragma once
// What the MPI library says of itself.

#include <string>

namespace supernode {

/// "Open MPI v4.1.4": the first words of MPI_Get_library_version.
std::string mpi_library();

/// The value of an MPI tool variable (MPI_T), which is how Open MPI shows its parameters ("osc", "pml"); "" when there
/// is none, or nobody has set it. Read once: the first call for a name may take a tenth of a second.
std::string mpi_control_variable(const char* name);

}  // namespace supernode
