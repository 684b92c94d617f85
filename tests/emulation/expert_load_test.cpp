// How unevenly experts are used.
#include "runtime/emulation/expert_load.hpp"

#include <limits>
#include <vector>

#include "runtime/core/error.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;
using Catch::Matchers::Contains;

TEST_CASE("copies go where the load per copy is largest") {
  const std::vector<double> loads{8, 1, 1, 2};
  CHECK(replicate(loads, 4) == std::vector<int>{1, 1, 1, 1});
  CHECK(replicate(loads, 6) == std::vector<int>{3, 1, 1, 1});
  CHECK(placed_skew(loads, 4, 4) == Approx(8 / 3.0));
  CHECK(placed_skew(loads, 4, 1) == Approx(1));
  CHECK(placed_skew(loads, 6, 6) < placed_skew(loads, 4, 4));
}

TEST_CASE("skew: even load has none, drift and small numbers add some, copies take some away") {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(expert_skew({}, 288, 288, infinity, infinity) == Approx(1));
  CHECK(expert_skew({.drift = 0.3}, 288, 288, infinity, infinity) == Approx(1 + 0.3 * expected_maximum(288)));
  CHECK(expert_skew({.request_spread = 1.2}, 288, 288, infinity, 16) == Approx(1 + 0.3 * expected_maximum(288)));
  CHECK(expert_skew({.drift = 0.3}, 288, 32, infinity, infinity) ==
        Approx(1 + 0.1 * expected_maximum(32)));  // nine slots a die
  CHECK(expert_skew({}, 288, 288, 100, infinity) > 1.2);
  const ExpertLoad zipf = zipf_load(256, 0.8);
  CHECK(expert_skew(zipf, 256, 256, infinity, infinity) > 5);
  CHECK(expert_skew(zipf, 288, 288, infinity, infinity) < 0.5 * expert_skew(zipf, 256, 256, infinity, infinity));
  CHECK(expected_maximum(1) == 0);
  CHECK(expected_maximum(2) == Approx(0.589).epsilon(0.01));
  CHECK(expected_maximum(288) == Approx(2.85).epsilon(0.01));
}

TEST_CASE("skew: what was placed for other loads pays for it") {
  ExpertLoad load = zipf_load(64, 0.8);
  const double placed = expert_skew(load, 64, 8, 1e9, 1e9);
  load.forecast = load.layers;
  CHECK(expert_skew(load, 64, 8, 1e9, 1e9) == placed);
  load.forecast = {std::vector<double>(64, 1.0)};
  CHECK(expert_skew(load, 64, 8, 1e9, 1e9) > placed);
}

TEST_CASE("recorded loads are checked") {
  const ExpertLoad load = parse_expert_load(R"({"logical_count": [[0, 0], [3, 1]]})", "l.json");
  CHECK(load.layers == std::vector<std::vector<double>>{{3, 1}});
  CHECK_THROWS_WITH(parse_expert_load("{}", "l.json"), Contains("l.json: no 'logical_count'"));
  CHECK_THROWS_WITH(parse_expert_load(R"({"logical_count": [[0]]})", "l.json"), "l.json: no layer has any counts");
}

TEST_CASE("a placement for yesterday's loads pays for today's") {
  // Yesterday the first expert was the heaviest and got the third slot; today the second one is.
  const std::vector<double> yesterday{6, 3}, today{3, 6};
  CHECK(placed_skew(yesterday, 3, 3) == Approx(1));
  CHECK(placed_skew(yesterday, today, 3, 3) == Approx(2));
  CHECK(placed_skew(yesterday, yesterday, 3, 3) == placed_skew(yesterday, 3, 3));
  // Four experts of 4, 3, 2, 1 on two dies: {4, 1} and {3, 2}. Today's 1, 1, 1, 5 put 6 of 8 on the first.
  CHECK(placed_skew(std::vector<double>{4, 3, 2, 1}, std::vector<double>{1, 1, 1, 5}, 4, 2) == Approx(6 / 4.0));
}

TEST_CASE("a placement names the expert of each slot, die by die") {
  // Heaviest first to the least loaded die with room.
  CHECK(place_experts(std::vector<double>{4, 3, 2, 1}, 4, 2) == std::vector<int>{0, 3, 1, 2});
  // The copies of an expert are as heavy as a half of it.
  CHECK(place_experts(std::vector<double>{6, 2, 1}, 4, 2) == std::vector<int>{0, 1, 0, 2});
}
