#include "runtime/serving/injection.hpp"

#include "runtime/core/error.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using Catch::Matchers::Contains;

TEST_CASE("injections are read, or refused in one line") {
  const std::vector<Injection> some = parse_injections({"owner_loss:1@2.5+10", "owner_stall"}, 2);
  CHECK(some[0].kind == InjectionKind::owner_stall);
  CHECK(some[0].duration_s == 0);
  CHECK(some[1].kind == InjectionKind::owner_loss);
  CHECK(some[1].cache_index == 1);
  CHECK(some[1].start_s == 2.5);
  CHECK(some[1].duration_s == 10);
  CHECK_THROWS_WITH(parse_injection("owner_fire", 1), Contains("known: owner_stall, owner_loss"));
  CHECK_THROWS_WITH(parse_injection("owner_stall:x", 1), Contains("':' is followed by no number"));
  CHECK_THROWS_WITH(parse_injection("owner_stall:1", 1), Contains("no cache rank 1; serving.cache_ranks is 1"));
  CHECK_THROWS_WITH(parse_injection("owner_stall:0.5", 1), Contains("no cache rank 0.5"));
  CHECK_THROWS_WITH(parse_injection("owner_stall@1@2", 1), Contains("'@2' is not understood"));
  CHECK_THROWS_WITH(parse_injection("owner_stall+-1", 1), Contains("'+' is followed by no number"));
}
