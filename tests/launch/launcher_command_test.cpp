// Commands that need no launcher, under one; and processes that only inherited a launcher's variables.
#include "tests/support/run_command.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;

TEST_CASE("under a launcher rank 0 alone does what needs none") {
  CHECK(document_of(supernode_on(3, "validate --format json"))["results"]["passed"] == true);
  const std::string config = supernode_alone("config").out;
  CHECK(supernode_on(2, "config").out == config);
  const std::string file = scratch_path("imported.h5");
  const Outcome imported =
      supernode_on(4, "import --model configs/models/shakespeare-moe --dtype bf16 --output " + file);
  INFO(imported.err);
  CHECK(imported.code == 0);
  CHECK(supernode_alone("inspect --model " + file).code == 0);
}

TEST_CASE("under a launcher all ranks leave with rank 0's exit code, after one line") {
  check_refused(supernode_on(3, "plan --npus 100000"), 2, "has 384");
  check_refused(supernode_on(3, "validate --output /nowhere/x.h5"), 3, "/nowhere/x.h5");
  const Outcome failed = supernode_on(3, "validate --tolerance 0.1");
  CHECK(failed.code == 1);
  CHECK_THAT(failed.out, Contains("FAILED"));
}

TEST_CASE("who inherited a launcher's variables speaks") {
  for (const char* variable : {"SLURM_PROCID", "PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"}) {
    INFO(variable);
    const std::string set = std::string(variable) + "=3";
    check_refused(supernode_alone("plan --bogus", set), 2, "--bogus");
    CHECK_THAT(supernode_alone("--version", set).out, Contains("supernode 0."));
    CHECK_THAT(supernode_alone("plan --help", set).out, Contains("Options of every command:"));
    CHECK_THAT(supernode_alone("config", set).out, Contains("[run]"));
  }
}

TEST_CASE("a Slurm step without PMI is exit code 3, with a line") {
  const std::string step = "env -u SLURM_JOBID SLURM_NODELIST=host SLURM_STEP_ID=0 SLURM_PROCID=3";
  const Outcome outcome = supernode_alone("topo", step);
  if (outcome.code == 0) return;  // an MPI that runs without
  check_refused(outcome, 3, "srun --mpi=pmix");
  CHECK(supernode_alone("config", step).code == 0);
}
