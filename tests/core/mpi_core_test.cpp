// The parts of runtime/core that communicate.
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/provenance.hpp"
#include "runtime/core/mpi/session.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;

TEST_CASE("ranks know each other") {
  CHECK(world().max(static_cast<long long>(world().rank())) == world().size() - 1);
  CHECK(world().sum(1.0) == world().size());
  const std::vector<std::string> names = world().gather("rank " + std::to_string(world().rank()));
  if (world().rank() == 0) {
    CHECK(names.size() == static_cast<std::size_t>(world().size()));
    CHECK(names.back() == "rank " + std::to_string(world().size() - 1));
  }
  CHECK(world().broadcast(world().rank() == 0 ? std::string(100000, 'x') : "") == std::string(100000, 'x'));
  const Communicator half = world().split(world().rank() % 2, 0);
  CHECK(half.size() == (world().size() + 1 - world().rank() % 2) / 2);
  CHECK_FALSE(world().split(MPI_UNDEFINED, 0));
  CHECK(world().split_by_host().size() >= 1);
}

TEST_CASE("an error of one rank is thrown by all, with its code and rank") {
  const int last = world().size() - 1;
  try {
    collectively(world(), [&] {
      if (world().rank() == last) throw UsageError("bad shard");
      return 1;
    });
    CHECK(false);
  } catch (const AgreedError& error) {
    CHECK(error.code() == ExitCode::usage);
    CHECK_THAT(error.what(), Contains("bad shard"));
    if (world().size() > 1) CHECK_THAT(error.what(), Contains("rank " + std::to_string(last)));
  }
  CHECK(collectively(world(), [] { return 5; }) == 5);
}

TEST_CASE("an error of all ranks is told once, without a rank") {
  CHECK_THROWS_WITH(collectively(world(), [] { throw CheckError("all wrong"); }), "all wrong");
}

TEST_CASE("a file is read by rank 0 and reaches all") {
  CHECK(read_file_on_root(world(), source_path("LICENSE")).size() > 1000);
  CHECK_THROWS_AS(read_file_on_root(world(), "/nowhere"), AgreedError);
}

TEST_CASE("a failed call is thrown with its text") {
  CHECK_THROWS_WITH([&] { SUPERNODE_MPI(MPI_Send(nullptr, -1, MPI_INT, 0, 0, world().get())); }(),
                    Contains("MPI_Send") && Contains("mpi_core_test.cpp"));
}

TEST_CASE("provenance names the run") {
  const Json env = run_provenance(world(), detect_host_topology(), {"supernode", "topo"});
  if (world().rank() == 0) {
    CHECK(env["ranks"] == world().size());
    CHECK(env["binding"].size() == static_cast<std::size_t>(world().size()));
    CHECK_THAT(env["mpi"]["library"].get<std::string>(), Contains("MPI"));
  } else {
    CHECK(env.empty());
  }
}
