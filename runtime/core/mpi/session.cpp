#include "runtime/core/mpi/session.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "runtime/core/core_sharing.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/doorbell.hpp"
#include "runtime/core/mpi/launcher.hpp"
#include "runtime/core/mpi/mpi_library.hpp"
#include "runtime/core/text.hpp"

namespace supernode {
namespace {

/// The processors that this process's affinity allows; empty when the system does not tell.
std::vector<int> processors_of_this_process() {
  std::vector<int> processors;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return processors;
  for (int processor = 0; processor < CPU_SETSIZE; ++processor)
    if (CPU_ISSET(processor, &set)) processors.push_back(processor);
  return processors;
}

bool has_rdma_device() {
  std::error_code ignored;
  const std::filesystem::path devices = "/sys/class/infiniband";
  return std::filesystem::is_directory(devices, ignored) && !std::filesystem::is_empty(devices, ignored);
}

/// Whether many more ranks than cores are on this host; the same on all of them.
bool in_a_crowd() {
  constexpr double many = 8;  // ranks a core
  return static_cast<double>(launch_identity().local_size) >=
         many * static_cast<double>(::sysconf(_SC_NPROCESSORS_ONLN));
}

/// Prepares this process for a host with many more ranks than cores, before MPI starts: most of a run with hundreds of
/// ranks on a few cores is ranks that wake up to find nothing, in MPI_Init and in every wait after it.
void make_room_for_others() {
  if (!in_a_crowd()) return;
  SpinWait::crowd();
  // Sleeps of MPI and of its helper threads may end 5 ms late; a rank that wakes up does not push aside one that works.
  // Both are wishes: what the system refuses costs time only.
  ::prctl(PR_SET_TIMERSLACK, 5000000ul, 0, 0, 0);
  const sched_param no_priority{};
  static_cast<void>(::sched_setscheduler(0, SCHED_IDLE, &no_priority));
}

}  // namespace

void platform_defaults() {
  make_room_for_others();
  // UCX, under MPICH and Open MPI alike, else writes its warnings to stdout, between the results.
  ::setenv("UCX_LOG_FILE", "stderr", 0);
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  if (!std::string_view(version).starts_with("Open MPI v4.")) return;
  constexpr int keep_users_choice = 0;
  if (!has_rdma_device()) ::setenv("OMPI_MCA_osc", "sm,pt2pt", keep_users_choice);
  // More ranks than processors are certain before MPI runs. Ranks that share processors by affinity are found after it:
  // yield_on_shared_processors().
  if (launch_identity().local_size > ::sysconf(_SC_NPROCESSORS_ONLN))
    ::setenv("OMPI_MCA_mpi_yield_when_idle", "1", keep_users_choice);
}

bool yield_on_shared_processors() {
  // Open MPI reads the parameter in MPI_Init only; its setter is no part of MPI and absent in other libraries.
  using Setter = bool (*)(bool);
  const auto set_yield = reinterpret_cast<Setter>(::dlsym(RTLD_DEFAULT, "opal_progress_set_yield_when_idle"));
  std::string mine;
  for (const int processor : processors_of_this_process()) mine += std::to_string(processor) + ' ';
  const Communicator host_ranks = Communicator::world().split_by_host();
  const std::vector<std::string> texts = host_ranks.gather(mine);
  std::vector<std::vector<int>> processors;
  for (const std::string& text : texts) {
    std::vector<int>& of_rank = processors.emplace_back();
    for (const std::string_view word : split_words(text)) of_rank.push_back(parse_number<int>(word).value());
  }
  const bool known = std::none_of(processors.begin(), processors.end(), [](const auto& list) { return list.empty(); });
  const bool crowded = known && ranks_with_own_processor(processors) < static_cast<int>(processors.size());
  // Only the host's first rank has the others' lists.
  const bool share = host_ranks.max(static_cast<long long>(host_ranks.rank() == 0 && crowded)) != 0;
  if (share && set_yield && !std::getenv("OMPI_MCA_mpi_yield_when_idle")) set_yield(true);
  return share;
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
  if (const int started = ranks_of_launcher();
      started > 1 && Communicator::world().size() == 1 && started_by_launcher())
    throw EnvironmentError(
        fmt::format("the launcher started {} ranks, but this one is alone: mpirun or mpiexec is not that of {}",
                    started, mpi_library()));
  yield_on_shared_processors();
  const Communicator host = Communicator::world().split_by_host();
  const bool crowd = host.max(static_cast<long long>(in_a_crowd())) != 0;
  if (crowd) doorbell::hang(host);
}

Session::~Session() {
  doorbell::take_down();
  // Open MPI bears objects that were never released. MPICH over UCX would end the process with a code of its own.
  if (handles_abandoned && !mpi_library().starts_with("Open MPI")) return;
  MPI_Finalize();
}

void abort_job(int code) {
  std::fflush(nullptr);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace supernode
