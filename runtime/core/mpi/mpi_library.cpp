#include "runtime/core/mpi/mpi_library.hpp"

#include <algorithm>
#include <map>

#include <mpi.h>

namespace supernode {

std::string mpi_library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string line(text, static_cast<std::size_t>(length));
  line.resize(std::min(line.find('\n'), line.size()));
  // "Open MPI v4.1.4, package: ..., ident: ...": the rest names the packager's build host.
  line.resize(std::min(line.find(", package"), line.size()));
  std::replace(line.begin(), line.end(), '\t', ' ');  // "MPICH Version:<tab>4.0.2"
  return line;
}

namespace {

std::string read_control_variable(const char* name) {
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

}  // namespace

std::string mpi_control_variable(const char* name) {
  // Open MPI opens all its components for each MPI_T_init_thread, which takes a tenth of a second and more.
  static std::map<std::string, std::string> known;
  const auto [entry, fresh] = known.try_emplace(name);
  if (fresh) entry->second = read_control_variable(name);
  return entry->second;
}

}  // namespace supernode
