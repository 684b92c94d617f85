#include "collectives/traffic/routing.hpp"

#include <algorithm>
#include <numeric>
#include <set>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::collectives;

namespace {

struct Drawn {
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
};

Drawn draw(const RoutingConfig& config, int n_experts, int topk, int n_tokens, int rank = 0) {
  Drawn drawn{std::vector<std::int32_t>(n_tokens * topk), std::vector<float>(n_tokens * topk)};
  route_tokens(config, n_experts, rank, topk, drawn.ids, drawn.weights);
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
                    "routing 'pareto' unknown; known: uniform, zipf, k_hot, file");
  CHECK_THROWS_WITH(expert_popularity({.pattern = "k_hot", .hot_experts = 9}, 8), Catch::Contains("[1, 8]"));
  CHECK_THROWS_WITH(expert_popularity({.pattern = "k_hot", .hot_fraction = 2}, 8), Catch::Contains("hot_fraction"));
  CHECK_THROWS_WITH(expert_popularity({.pattern = "zipf", .zipf_alpha = -1}, 8), Catch::Contains("zipf_alpha"));
  CHECK_THROWS_WITH(draw({}, 4, 8, 1), "topk 8 exceeds the 4 experts");
}

TEST_CASE("skew is the busiest rank's rows over the mean") {
  CHECK(routing_skew(expert_popularity({}, 256), 8, 4) == Approx(1));
  // One expert a token, half of the tokens to the first of four ranks.
  CHECK(routing_skew(std::vector<double>{0.5, 0.25, 0.125, 0.125}, 1, 4) == Approx(2));
  // Of two choices, the first rank misses a token with 1/4, the others with 25/36: 27 and 11 rows of 36.
  CHECK(routing_skew(std::vector<double>{0.5, 1.0 / 6, 1.0 / 6, 1.0 / 6}, 2, 4) == Approx(27 * 4 / (27 + 3 * 11.0)));
  CHECK(routing_skew(expert_popularity({.pattern = "zipf"}, 8), 2, 1) == Approx(1));
  CHECK(routing_skew(std::vector<double>{1}, 1, 3) == Approx(3));
}

TEST_CASE("recorded counts are drawn in proportion") {
  const auto recorded = [](int layer) {
    return parse_recorded_routing(R"({"logical_count": [[0, 0, 0], [1.0, 2, 1], [4, 0, 0]]})", "counts.json", layer);
  };
  const RecordedRouting routing = recorded(-1);
  CHECK(routing.layer == 1);
  CHECK(routing.num_experts == 3);
  CHECK(routing.topk == 0);
  CHECK(recorded(2).counts == std::vector<double>{4, 0, 0});
  RoutingConfig config{.pattern = "file"};
  config.recorded = std::make_shared<const RecordedRouting>(routing);
  CHECK(expert_popularity(config, 3) == std::vector<double>{0.25, 0.5, 0.25});
  std::vector<std::int32_t> ids(4000);
  std::vector<float> weights(4000);
  route_tokens(config, 3, 0, 1, ids, weights);
  CHECK(std::count(ids.begin(), ids.end(), 1) / 4000.0 == Approx(0.5).margin(0.03));
  CHECK_THROWS_WITH(expert_popularity(config, 4), "counts.json: recorded with 3 experts, not 4");
  CHECK_THROWS_WITH(recorded(0), "counts.json: nothing was routed in layer 0");
  CHECK_THROWS_WITH(recorded(3), "counts.json: has layers 0 to 2, not 3");
}

TEST_CASE("recorded tokens go round the ranks in their order") {
  const std::string lines =
      R"({"row_type": "header", "provenance": {"expert_count": 8}})"
      "\n"
      R"({"routing": [{"layer_index": 2, "expert_ids": [5, 1]}, {"layer_index": 3, "expert_ids": [0, 1]}]})"
      "\n\n"
      R"({"routing": [{"layer_index": 2, "expert_ids": [3, 4]}]})"
      "\n"
      R"({"routing": [{"layer_index": 2, "expert_ids": [0, 2]}]})";
  const RecordedRouting routing = parse_recorded_routing(lines, "tokens.jsonl", -1);
  CHECK(routing.layer == 2);
  CHECK(routing.num_experts == 8);
  CHECK(routing.topk == 2);
  CHECK(routing.expert_ids == std::vector<std::int32_t>{5, 1, 3, 4, 0, 2});
  CHECK(parse_recorded_routing(lines, "tokens.jsonl", 3).expert_ids == std::vector<std::int32_t>{0, 1});
  RoutingConfig config{.pattern = "file"};
  config.recorded = std::make_shared<const RecordedRouting>(routing);
  std::vector<std::int32_t> ids(4);
  std::vector<float> weights(4);
  route_tokens(config, 8, 1, 2, ids, weights);
  CHECK(ids == std::vector<std::int32_t>{0, 2, 5, 1});
  CHECK(weights[0] + weights[1] == Approx(1));
  CHECK_THROWS_WITH(route_tokens(config, 8, 0, 4, ids, weights), "tokens.jsonl: recorded with topk 2, not 4");

  const auto error = [](const std::string& text, int layer = -1) {
    try {
      parse_recorded_routing(text, "t.jsonl", layer);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  CHECK(error("") == "t.jsonl: no tokens with recorded routing");
  CHECK(error(lines, 9) == "t.jsonl: no tokens with recorded routing in layer 9");
  CHECK(error("{}\n{\"rou") == "t.jsonl:2: not a JSON object (is the file truncated?)");
  CHECK(error(R"({"routing": [{"expert_ids": [1]}]})") ==
        "t.jsonl:1: routing is not a list of {layer_index, expert_ids}");
  CHECK(error(lines + "\n" + R"({"routing": [{"layer_index": 2, "expert_ids": [1]}]})") ==
        "t.jsonl:6: 1 experts, but 2 in the tokens before");
  CHECK(error(R"({"routing": [{"layer_index": 2, "expert_ids": [1, 1]}]})") == "t.jsonl:1: the same expert twice");
  CHECK(error(R"({"routing": [{"layer_index": 2, "expert_ids": [-2]}]})") ==
        "t.jsonl:1: a negative expert id other than -1, which means none");
  CHECK(error(R"({"routing": [{"layer_index": 2, "expert_ids": [-1, -1]}]})") ==
        "t.jsonl: all recorded choices are -1, none");
  CHECK(error(R"({"logical_count": []})") == "t.jsonl: 'logical_count' is empty");
  CHECK(error(R"({"logical_count": [[0, 0]]})") == "t.jsonl: no layer has any counts");
  CHECK(error(R"({"logical_count": [[1, -1]]})") == "t.jsonl: logical_count[0][1] is not a count");
}

TEST_CASE("recorded choices of -1 are padding and go nowhere") {
  const RecordedRouting routing =
      parse_recorded_routing(R"({"routing": [{"layer_index": 0, "expert_ids": [2, -1, -1]}]})"
                             "\n"
                             R"({"routing": [{"layer_index": 0, "expert_ids": [0, 1, 2]}]})",
                             "padded.jsonl", -1);
  CHECK(routing.topk == 3);
  CHECK(routing.num_experts == 3);
  CHECK(routing.expert_ids == std::vector<std::int32_t>{2, -1, -1, 0, 1, 2});
  CHECK(routing.counts == std::vector<double>{1, 1, 2});
}

TEST_CASE("public recordings are read") {
  if (const std::string path = test::shared_path("data/routing/r1_decode_in2000_out100.json"); !path.empty()) {
    const RecordedRouting routing = parse_recorded_routing(read_file(path), path, -1);
    CHECK(routing.layer == 3);
    CHECK(routing.num_experts == 256);
    CHECK(std::accumulate(routing.counts.begin(), routing.counts.end(), 0.0) == 23760000);
  }
  if (const std::string path = test::shared_path("data/routing/granite_3_1b_tokens.jsonl"); !path.empty()) {
    const RecordedRouting routing = parse_recorded_routing(read_file(path), path, 5);
    CHECK(routing.num_experts == 32);
    CHECK(routing.topk == 8);
    CHECK(routing.expert_ids.size() == 216 * 8);
    CHECK(routing.expert_ids[0] == 4);
  }
}
