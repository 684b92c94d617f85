// Measurements in turns, and collectives that name who is missing.
#include "runtime/core/mpi/repeat.hpp"

#include "runtime/core/mpi/silent_ranks.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::test;

TEST_CASE("contenders take turns of as many rounds, each counted by its slowest rank") {
  std::string order;
  std::vector<Contender> contenders(2);
  int turns_ended = 0;
  contenders[0].round = [&](int iteration) {
    order += iteration < 0 ? 'a' : 'A';
    return 1e-3 * (world().rank() + 1);
  };
  contenders[1].round = [&](int iteration) {
    order += iteration < 0 ? 'b' : 'B';
    return 2e-3;
  };
  contenders[1].after_turn = [&] { ++turns_ended; };
  const Repetition repetition{.warmup = 1, .least = 5, .ci_width = 0, .turn = 2};
  for (Contender& contender : contenders) warm_up(world(), repetition, 30, contender);
  repeat(world(), repetition, 30, contenders);
  // Turns of 2, 2 and 1 rounds; a turn of several begins with one that does not count, and who begins changes.
  CHECK(order ==
        "ab"
        "aAAbBB"
        "bBBaAA"
        "AB");
  CHECK(turns_ended == 3);
  CHECK(contenders[0].us == std::vector<double>(5, 1e3 * world().size()));
  CHECK(contenders[0].own_us == std::vector<double>(5, 1e3 * (world().rank() + 1)));
  CHECK(contenders[0].turn_us.size() == 3);
  CHECK(contenders[1].turn_us == std::vector<double>(3, 2e3));
}

TEST_CASE("each value becomes its largest over ranks") {
  std::vector<double> values{static_cast<double>(world().rank()), -static_cast<double>(world().rank())};
  take_largest(world(), values, 30);
  CHECK(values == std::vector<double>{world().size() - 1.0, 0.0});
}

TEST_CASE("nobody is silent when all call") { CHECK(find_silent_ranks(world()).empty()); }
