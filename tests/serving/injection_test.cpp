#include "runtime/serving/injection.hpp"

#include "runtime/core/error.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using Catch::Matchers::Contains;

namespace {

/// Ranks 1 and 2 prefill, 3 to 6 decode, then the cache ranks.
ServingConfig with_cache_ranks(int count) {
  ServingConfig config;
  config.cache_ranks = count;
  return config;
}

}  // namespace

TEST_CASE("injections are read, or refused in one line") {
  const std::vector<Injection> some = parse_injections(
      {"owner_loss:1@2.5+10", "owner_stall", "slow_rank=4:2.5@3+1", "stall_rank:2:7@4"}, with_cache_ranks(2));
  REQUIRE(some.size() == 4);
  CHECK(some[0].kind == InjectionKind::owner_stall);
  CHECK(some[0].duration_s == 0);
  CHECK(some[0].rank == 7);
  CHECK(some[1].kind == InjectionKind::owner_loss);
  CHECK(some[1].rank == 8);
  CHECK(some[1].start_s == 2.5);
  CHECK(some[1].duration_s == 10);
  CHECK(some[2].kind == InjectionKind::slow_rank);
  CHECK(some[2].rank == 4);
  CHECK(some[2].factor == 2.5);
  CHECK(some[2].start_s == 3);
  CHECK(some[2].duration_s == 1);
  CHECK(some[3].kind == InjectionKind::stall_rank);
  CHECK(some[3].rank == 2);
  CHECK(some[3].start_s == 4);
  CHECK(some[3].duration_s == 7);
  CHECK(injections_of(4, some).size() == 1);
  CHECK(injections_of(5, some).empty());
  CHECK(slowness_at(some, 2.9) == 1);
  CHECK(slowness_at(some, 3) == 2.5);
  CHECK(slowness_at(some, 4) == 1);

  const auto refused = [](std::string_view text, const std::string& why) {
    INFO(text);
    CHECK_THROWS_WITH(parse_injection(text, with_cache_ranks(1)), Contains(why));
  };
  refused("owner_fire", "known: owner_stall, owner_loss");
  refused("owner_stall:x", "':' is followed by no number");
  refused("owner_stall:1", "no cache rank 1; serving.cache_ranks is 1");
  refused("owner_stall:0.5", "no cache rank 0.5");
  refused("owner_stall@1@2", "'@2' is not understood");
  refused("owner_stall+-1", "'+' is followed by no number");
  refused("owner_stall:0=1", "'=1' is not understood");
  refused("slow_rank=4", "a rank and a number are wanted");
  refused("slow_rank=0:2", "rank 0 is no die; they are ranks 1 to 6");
  refused("slow_rank=7:2", "rank 7 is no die");
  refused("slow_rank=4:0.5", "a factor below 1");
  refused("stall_rank=4:2+1", "its seconds stand behind the rank");
}
