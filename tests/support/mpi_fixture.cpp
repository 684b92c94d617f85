#include "tests/support/mpi_fixture.hpp"

#include <cstdio>
#include <cstdlib>
#include <optional>

#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/session.hpp"
#include "tests/support/verdict.hpp"

namespace supernode::test {
namespace {
std::optional<Communicator> test_world, verdicts;

double peer_timeout() {
  const char* text = std::getenv("SUPERNODE_TEST_PEER_TIMEOUT");
  return text ? std::atof(text) : 60;
}
}  // namespace

void open_verdicts() {
  test_world = Communicator::world();
  verdicts = Communicator::world();
}

void close_verdicts() {
  test_world.reset();
  verdicts.reset();
}

const Communicator& world() { return *test_world; }

bool all_ranks(bool mine) {
  int here = mine ? 1 : 0, all = 0;
  SUPERNODE_MPI(MPI_Allreduce(&here, &all, 1, MPI_INT, MPI_MIN, test_world->get()));
  return all == 1;
}

int count_failed(int failed, const std::string& test) {
  const int mine = failed != 0 ? 1 : 0;
  int sum = 0;
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Iallreduce(&mine, &sum, 1, MPI_INT, MPI_SUM, verdicts->get(), &request));
  try {
    wait_until([&] { return completed(request); }, peer_timeout(), [] { return std::string("peers missing"); },
               Idle::sleep);
  } catch (const TimeoutError&) {
    std::fprintf(stderr, "rank %d: '%s': peers missing for %g s, %s here\n", verdicts->rank(), test.c_str(),
                 peer_timeout(), mine ? "FAILED" : "good");
    abort_job(3);
  }
  return sum;
}

}  // namespace supernode::test
