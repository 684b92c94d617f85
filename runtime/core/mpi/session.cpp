#include "runtime/core/mpi/session.hpp"

#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <thread>

#include <mpi.h>
#include <unistd.h>

#include "runtime/core/error.hpp"
#include "runtime/core/mpi/launcher.hpp"

namespace supernode {
namespace {

bool has_rdma_device() {
  std::error_code ignored;
  const std::filesystem::path devices = "/sys/class/infiniband";
  return std::filesystem::is_directory(devices, ignored) && !std::filesystem::is_empty(devices, ignored);
}

}  // namespace

void platform_defaults() {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  if (!std::string_view(version).starts_with("Open MPI v4.")) return;
  constexpr int keep_users_choice = 0;
  if (!has_rdma_device()) ::setenv("OMPI_MCA_osc", "sm,pt2pt", keep_users_choice);
  if (launch_identity().local_size > static_cast<int>(std::thread::hardware_concurrency()))
    ::setenv("OMPI_MCA_mpi_yield_when_idle", "1", keep_users_choice);
}

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return name;
}

Session::Session(int& argc, char**& argv) {
  platform_defaults();
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
    throw EnvironmentError("MPI_Init_thread failed");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (provided < MPI_THREAD_FUNNELED) throw EnvironmentError("this MPI library gives no MPI_THREAD_FUNNELED");
}

Session::~Session() { MPI_Finalize(); }

}  // namespace supernode
