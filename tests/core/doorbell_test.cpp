// Bells of a host's ranks.
#include "runtime/core/mpi/doorbell.hpp"

#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mailbox.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::test;

TEST_CASE("a message rings the bell of its receiver, and of nobody else") {
  CHECK_FALSE(doorbell::hung());
  CHECK(doorbell::rings() == 0);
  const Communicator host = world().split_by_host();
  doorbell::hang(host);
  REQUIRE(doorbell::hung());
  {
    // In another order of ranks: bells are found by process.
    const Communicator reversed = world().split(0, -world().rank());
    Mailbox box(reversed);
    world().barrier();
    const int next = (reversed.rank() + 1) % reversed.size();
    for (int i = 0; i < 3; ++i) box.send(next, 0, std::vector<std::byte>(10));
    int received = 0;
    wait_until(
        [&] {
          while (box.poll()) ++received;
          return received == 3;
        },
        60, [] { return std::string("messages missing"); });
    box.flush(60);
    world().barrier();
    CHECK(doorbell::rings() == 3);
    // A ring that came before the wait ends it at once, so a rank that looked too early does not sleep through it.
    doorbell::wait(2, std::chrono::hours(1));
    // Without one it ends in time.
    doorbell::wait(3, std::chrono::milliseconds(1));
    world().barrier();
  }
  doorbell::take_down();
  CHECK_FALSE(doorbell::hung());
}
