#pragma once
// Who started this process, before MPI runs.

#include <string>
#include <string_view>

namespace supernode {

/// The place that the variables of a launcher give to this process. A process that was started by hand inside a job has
/// the variables too: see started_by_launcher().
struct LaunchIdentity {
  int rank = 0, size = 1, local_rank = 0, local_size = 1;
};
/// Rank 0 of 1 where there are no such variables.
LaunchIdentity launch_identity();

/// How many ranks the launcher started together, by its own variables alone (not those of a batch job); 1 without any.
int ranks_of_launcher();

/// Whether a launcher of MPI programs started this very process, so that its variables are meant for it: the parent is
/// one, or cannot be seen (it is outside of this container). Tools that run one program, as `timeout`, may stand
/// between. A shell may not: what is typed in a shell of a job, or called by a script there, is no rank of that job.
bool started_by_launcher();

/// Whether a process of this name is a launcher of MPI programs, or its helper on a host.
bool is_launcher(std::string_view process_name);

/// What to tell the user where MPI_Init of Open MPI 4 would end the process with code 1: it takes every process that has
/// the variables of a Slurm step for a task of srun, and finds no PMI there. "" where it would not.
std::string srun_without_pmi();

}  // namespace supernode
