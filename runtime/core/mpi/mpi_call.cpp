#include "runtime/core/mpi/mpi_call.hpp"

#include <climits>

#include <fmt/format.h>

namespace supernode {

void throw_mpi_error(int code, const char* call, std::source_location where) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw MpiError(fmt::format("{} failed at {}:{}: {}", call, where.file_name(), where.line(),
                             std::string_view(text, static_cast<std::size_t>(length))));
}

int count_cast(std::size_t count, const char* what) {
  if (count > static_cast<std::size_t>(INT_MAX))
    throw EnvironmentError(fmt::format("{} of {} exceeds what one MPI call can carry ({})", what, count, INT_MAX));
  return static_cast<int>(count);
}

bool completed(MPI_Request& request) {
  int done = 0;
  SUPERNODE_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
  return done != 0;
}

}  // namespace supernode
