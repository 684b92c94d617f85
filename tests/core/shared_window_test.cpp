// Shared windows, and what a user is told where the host has no room for them.
#include "runtime/core/mpi/shared_window.hpp"

#include <cstring>

#include "runtime/core/memory_pages.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;

namespace {

const WindowUse use{"the test's memory", "ask for less"};

}  // namespace

TEST_CASE("ranks of a host see each other's part of a shared window, whose pages are there") {
  const Communicator host = world().split_by_host();
  constexpr std::uint64_t bytes = 3 << 20;
  const SharedWindow memory = allocate_shared_window(world(), host, bytes, use);
  if (!memory.window) return;  // one-sided components without shared windows were chosen
  take_window_pages(world(), {memory.own, bytes}, use);
  memory.own[bytes - 1] = static_cast<std::byte>(host.rank());
  SUPERNODE_MPI(MPI_Win_fence(0, memory.window.get()));
  const int neighbour = (host.rank() + 1) % host.size();
  MPI_Aint size = 0;
  int unit = 0;
  std::byte* theirs = nullptr;
  SUPERNODE_MPI(MPI_Win_shared_query(memory.window.get(), neighbour, &size, &unit, &theirs));
  CHECK(theirs[bytes - 1] == static_cast<std::byte>(neighbour));
  host.barrier();
}

TEST_CASE("more than the host's shared memory is refused on every rank, with what is needed, free, and to be done") {
  const Communicator host = world().split_by_host();
  if (host.size() == 1) return;  // a window of one rank takes no shared memory
  constexpr std::uint64_t bytes = std::uint64_t{1} << 50;
  const std::uint64_t of_last = world().rank() == world().size() - 1 ? bytes : 0;  // one rank alone asks for too much
  CHECK_THROWS_WITH(allocate_shared_window(world(), host, of_last, use),
                    Contains("the test's memory needs 1182") && Contains("bytes (") && Contains(" are free: enlarge") &&
                        Contains("or ask for less") && Contains(shared_window_folder()));
}

TEST_CASE("windows for messages are checked where they lie in shared memory") {
  const std::uint64_t bytes = world().rank() == 0 ? 1 << 20 : 0;
  const SharedWindow memory = allocate_window(world(), bytes, use);
  CHECK(memory.window);
  if (bytes > 0) std::memset(memory.own, 1, bytes);
  const bool in_file = world().broadcast(bytes > 0 ? file_behind(memory.own) : "") != "";
  if (in_file && world().split_by_host().size() == world().size() && world().size() > 1)
    CHECK_THROWS_WITH(allocate_window(world(), std::uint64_t{1} << 48, use), Contains("are free"));
}
