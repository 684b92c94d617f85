#include "runtime/core/mpi/launcher.hpp"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <optional>

#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include "runtime/core/files.hpp"
#include "runtime/core/text.hpp"

namespace supernode {
namespace {

int number_from_environment(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names)
    if (const char* text = std::getenv(name)) return parse_number<int>(text).value_or(otherwise);
  return otherwise;
}

bool any_set(std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [](const char* name) { return std::getenv(name) != nullptr; });
}

struct Process {
  std::string name;
  long parent;
};

/// Nothing when there is no such process, or it cannot be seen.
std::optional<Process> find_process(long id) {
  try {
    // "<id> (<name>) <state> <parent> ...", where the name may hold anything.
    const std::string line = read_file(fmt::format("/proc/{}/stat", id));
    const auto open = line.find('('), close = line.rfind(')');
    if (open == std::string::npos || close == std::string::npos) return std::nullopt;
    const auto fields = split_words(std::string_view(line).substr(close + 1));
    const std::optional<long> parent = fields.size() > 1 ? parse_number<long>(fields[1]) : std::nullopt;
    if (!parent) return std::nullopt;
    return Process{line.substr(open + 1, close - open - 1), *parent};
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

/// Tools that run one program and stay its parent.
bool is_transparent(std::string_view name) {
  const auto tools = {"timeout", "time", "strace", "gdb", "perf"};
  return std::find(tools.begin(), tools.end(), name) != tools.end();
}

}  // namespace

LaunchIdentity launch_identity() {
  LaunchIdentity id;
  id.rank = number_from_environment({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}, 0);
  id.size = number_from_environment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}, 1);
  id.local_rank = number_from_environment({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}, 0);
  id.local_size = number_from_environment({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"}, 1);
  return id;
}

int ranks_of_launcher() { return number_from_environment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, 1); }

bool is_launcher(std::string_view process_name) {
  // Open MPI 4 and 5, MPICH and its relatives, Slurm, Flux, PBS, LSF, Cray's ALPS and PALS.
  for (const char* start : {"mpirun", "mpiexec", "orte", "prte", "prun", "hydra", "pmi_proxy", "mpispawn", "slurmstepd",
                            "flux-shell", "pbs_mom", "jsmd", "apinit", "palsd"})
    if (process_name.starts_with(start)) return true;
  return process_name == "orted";
}

bool started_by_launcher() {
  long id = ::getppid();
  for (;;) {
    const std::optional<Process> process = find_process(id);
    if (!process) return true;
    if (is_launcher(process->name)) return true;
    if (!is_transparent(process->name)) return false;
    id = process->parent;
  }
}

std::string srun_without_pmi() {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  if (!std::string_view(version).starts_with("Open MPI v4.")) return {};
  // Under mpirun, or under srun with PMI, one of these is there.
  if (any_set({"PMIX_NAMESPACE", "PMI_FD", "OMPI_COMM_WORLD_RANK"})) return {};
  if (!any_set({"SLURM_NODELIST"}) || (any_set({"SLURM_JOBID"}) && !any_set({"SLURM_STEP_ID"}))) return {};
  return "this process is in a Slurm step that gives no PMI to MPI: start it by mpirun or by srun --mpi=pmix, or, for "
         "a "
         "single process, unset SLURM_NODELIST and SLURM_STEP_ID";
}

}  // namespace supernode
