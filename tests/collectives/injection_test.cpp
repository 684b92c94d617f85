#include "collectives/benchmark/injection.hpp"

#include "tests/support/catch.hpp"

using namespace supernode::collectives;

TEST_CASE("injections are read and refused") {
  using Kind = Injection::Kind;
  CHECK(parse_injection("", 1).kind == Kind::none);
  const Injection stall = parse_injection("stall:2:1500.5:7", 3);
  CHECK(stall.kind == Kind::stall);
  CHECK(stall.rank == 2);
  CHECK(stall.ms == 1500.5);
  CHECK(stall.iteration == 7);
  CHECK(parse_injection("stall:0:10", 1).iteration == 0);
  CHECK(parse_injection("stop:1", 2).kind == Kind::stop);
  CHECK(parse_injection("corrupt:1:3", 2).iteration == 3);
  for (const char* bad :
       {"crash:1", "stall", "stall:0", "stall:0:x", "stall:-1:5", "stall:0:5:1:2", "stop:", "stop:0:1:2"})
    CHECK_THROWS_WITH(parse_injection(bad, 4), Catch::Contains(bad) && Catch::Contains("known: stall:RANK:MS"));
  CHECK_THROWS_WITH(parse_injection("stop:4", 4), Catch::StartsWith("injection 'stop:4': ranks are 0 to 3; known: "));
}
