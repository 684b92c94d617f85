#include "collectives/routing.hpp"

#include <algorithm>
#include <numeric>
#include <set>

#include <catch2/catch.hpp>

#include "runtime/core/error.hpp"

using namespace supernode;
using namespace supernode::collectives;

namespace {

struct Drawn {
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
};

Drawn draw(const RoutingConfig& config, int n_experts, int topk, int n_tokens, int rank = 0) {
  Drawn drawn{std::vector<std::int32_t>(n_tokens * topk), std::vector<float>(n_tokens * topk)};
  draw_routing(expert_popularity(config, n_experts), config.seed, rank, topk, drawn.ids, drawn.weights);
  return drawn;
}

}  // namespace

TEST_CASE("tokens draw distinct experts, with weights that sum to 1") {
  for (const std::string& pattern : routing_patterns()) {
    const RoutingConfig config{.pattern = pattern, .zipf_alpha = 1.5, .hot_experts = 2, .hot_fraction = 1};
    const Drawn drawn = draw(config, 16, 4, 100);
    for (int token = 0; token < 100; ++token) {
      const std::set<int> distinct(&drawn.ids[token * 4], &drawn.ids[token * 4] + 4);
      REQUIRE(distinct.size() == 4);
      REQUIRE(*distinct.begin() >= 0);
      REQUIRE(*distinct.rbegin() < 16);
      CHECK(std::accumulate(&drawn.weights[token * 4], &drawn.weights[token * 4] + 4, 0.0f) == Approx(1));
    }
    CHECK(drawn.ids == draw(config, 16, 4, 100).ids);
    CHECK(drawn.ids != draw(config, 16, 4, 100, 1).ids);
  }
}

TEST_CASE("frequencies follow the pattern") {
  const auto frequency = [](const Drawn& drawn, int expert) {
    return static_cast<double>(std::count(drawn.ids.begin(), drawn.ids.end(), expert)) / drawn.ids.size();
  };
  const Drawn uniform = draw({}, 8, 1, 20000);
  for (int e = 0; e < 8; ++e) CHECK(frequency(uniform, e) == Approx(0.125).margin(0.015));
  const Drawn zipf = draw({.pattern = "zipf", .zipf_alpha = 1}, 8, 1, 20000);
  CHECK(frequency(zipf, 0) / frequency(zipf, 3) == Approx(4).epsilon(0.15));
  const Drawn hot = draw({.pattern = "k_hot", .hot_experts = 2, .hot_fraction = 0.8}, 8, 1, 20000);
  CHECK(frequency(hot, 0) + frequency(hot, 1) == Approx(0.8).margin(0.02));
}

TEST_CASE("impossible patterns are refused by name") {
  CHECK_THROWS_WITH(expert_popularity({.pattern = "pareto"}, 8),
                    "routing 'pareto' unknown; known: uniform, zipf, k_hot");
  CHECK_THROWS_WITH(expert_popularity({.pattern = "k_hot", .hot_experts = 9}, 8), Catch::Contains("[1, 8]"));
  CHECK_THROWS_WITH(expert_popularity({.pattern = "k_hot", .hot_fraction = 2}, 8), Catch::Contains("hot_fraction"));
  CHECK_THROWS_WITH(expert_popularity({.pattern = "zipf", .zipf_alpha = -1}, 8), Catch::Contains("zipf_alpha"));
  CHECK_THROWS_WITH(draw({}, 4, 8, 1), "topk 8 exceeds the 4 experts");
}
