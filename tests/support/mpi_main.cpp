// Catch2 under MPI: rank 0 reports on stdout, the others only when they fail; all ranks exit with the same code.
#include <cstdio>
#include <iostream>
#include <sstream>

#include "runtime/core/mpi/session.hpp"
#include "tests/support/catch_main.hpp"
#include "tests/support/mpi_fixture.hpp"
#include "tests/support/verdict.hpp"

namespace {

/// At the end of each test case every rank says whether it failed, and waits for the others to say so.
struct VerdictListener : supernode::test::Listener {
  using supernode::test::Listener::Listener;
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    const std::string& name = supernode::test::case_name(stats);
    const int failed = supernode::test::count_failed(static_cast<int>(stats.totals.assertions.failed), name);
    const auto& world = supernode::test::world();
    if (failed > 0 && world.rank() == 0)
      std::fprintf(stderr, "'%s': FAILED on %d of %d ranks\n", name.c_str(), failed, world.size());
  }
};
CATCH_REGISTER_LISTENER(VerdictListener)

int run(int argc, char** argv) {
  const auto& world = supernode::test::world();
  Catch::Session session;
  if (const int bad = session.applyCommandLine(argc, argv)) return bad;
  // Ranks other than 0 report into memory; their text is shown only when they fail.
  std::ostringstream quiet;
  std::streambuf* stdout_buffer = world.rank() == 0 ? nullptr : std::cout.rdbuf(quiet.rdbuf());
  const int failed = session.run();
  if (stdout_buffer) {
    std::cout.rdbuf(stdout_buffer);
    if (failed != 0) std::fprintf(stderr, "rank %d:\n%s", world.rank(), quiet.str().c_str());
  }
  return supernode::test::count_failed(failed, "end of the run") == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  supernode::Session session(argc, argv);
  supernode::test::open_verdicts();
  const int code = run(argc, argv);
  supernode::test::close_verdicts();
  return code;
}
