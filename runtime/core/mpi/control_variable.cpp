#include "runtime/core/mpi/control_variable.hpp"

#include <algorithm>

#include <mpi.h>

namespace supernode {

std::string mpi_control_variable(const char* name) {
  int provided = 0, index = 0;
  if (MPI_T_init_thread(MPI_THREAD_SINGLE, &provided) != MPI_SUCCESS) return {};
  std::string value;
  MPI_T_cvar_handle handle = nullptr;
  int count = 0;
  if (MPI_T_cvar_get_index(name, &index) == MPI_SUCCESS &&
      MPI_T_cvar_handle_alloc(index, nullptr, &handle, &count) == MPI_SUCCESS) {
    std::string text(static_cast<std::size_t>(std::max(count, 1)) + 1, '\0');
    if (count > 1 && MPI_T_cvar_read(handle, text.data()) == MPI_SUCCESS) value = text.c_str();
    MPI_T_cvar_handle_free(&handle);
  }
  MPI_T_finalize();
  return value;
}

}  // namespace supernode
