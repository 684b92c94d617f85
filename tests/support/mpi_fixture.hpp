#pragma once
// What MPI tests use: the world, and agreement of all ranks on a verdict.
// In a test: CHECK for this rank's own values; REQUIRE only on agreed values (REQUIRE(all_ranks(ok))), since a rank
// that leaves a test alone would leave its peers in a collective. At the end of each test case the ranks wait for one
// another; when one is missing for SUPERNODE_TEST_PEER_TIMEOUT seconds (default 60), the run
// is aborted with the test's name.

#include "runtime/core/mpi/communicator.hpp"
#include "tests/support/catch.hpp"

namespace supernode::test {

/// A duplicate of MPI_COMM_WORLD for tests, distinct from the one that carries verdicts.
const Communicator& world();

/// True on every rank when `mine` is true on all of them. Collective.
bool all_ranks(bool mine);

}  // namespace supernode::test
