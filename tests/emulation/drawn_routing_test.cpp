// Drawn routing: totals, distinct choices, and the same skew as the formula's.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include "runtime/emulation/published_setup.hpp"
#include "runtime/emulation/routing.hpp"
#include "tests/emulation/shipped.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;

namespace {

using Rows = std::vector<std::int32_t>;

Rows drawn(const Routing& routing, const std::vector<TokenRange>& tokens) {
  Rows rows(routing.record_size());
  routing.draw(tokens, rows);
  return rows;
}

ModelShape model_of(int experts, int topk) {
  ModelShape model = r1();
  model.experts = experts;
  model.topk = topk;
  return model;
}

std::span<const std::int32_t> layer_of(const Rows& rows, const Routing& routing, int layer) {
  const std::size_t slots = routing.record_size() / static_cast<std::size_t>(routing.layers());
  return std::span(rows).subspan(static_cast<std::size_t>(layer) * slots, slots);
}

std::int64_t sum(std::span<const std::int32_t> rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

/// Rows of the busiest of `dies` dies over the mean, the mean of all layers.
double skew_of(const Rows& rows, const Routing& routing, int slots, int dies) {
  double skew = 0;
  for (int layer = 0; layer < routing.layers(); ++layer) {
    const std::span<const std::int32_t> routed = layer_of(rows, routing, layer).first(static_cast<std::size_t>(slots));
    const auto each = static_cast<std::size_t>(slots / dies);
    std::int64_t busiest = 0;
    for (std::size_t first = 0; first < routed.size(); first += each)
      busiest = std::max(busiest, sum(routed.subspan(first, each)));
    skew += static_cast<double>(busiest) * dies / static_cast<double>(sum(routed)) / routing.layers();
  }
  return skew;
}

}  // namespace

TEST_CASE("a token chooses distinct slots, as many as the model says") {
  const ExpertLayout layout{.dies = 40, .shared_dies = 4, .redundant = 32};
  for (const ExpertLoad& load : {ExpertLoad{}, ExpertLoad{.drift = 0.28, .request_spread = 1.2}}) {
    const Routing routing(r1(), layout, load, 3, 4);
    CHECK(routing.layers() == 4);
    REQUIRE(routing.record_size() == 4 * 292);
    for (int position = 0; position < 300; ++position) {
      const Rows rows = drawn(routing, {{7, position, 1}});
      CHECK(*std::max_element(rows.begin(), rows.end()) == 1);
      for (int layer = 0; layer < 4; ++layer) {
        CHECK(sum(layer_of(rows, routing, layer).first(288)) == 8);
        CHECK(sum(layer_of(rows, routing, layer).last(4)) == 0);
      }
    }
  }
}

TEST_CASE("with recorded loads a token chooses distinct experts, not two copies of one") {
  const ExpertLoad load = zipf_load(12, 1.5);
  const Routing routing(model_of(12, 3), {.dies = 8, .redundant = 12}, load, 3, 1);
  const std::vector<int> experts = place_experts(load.layers[0], 24, 8);
  for (int position = 0; position < 500; ++position) {
    const Rows rows = drawn(routing, {{7, position, 1}});
    std::map<int, int> of_expert;
    for (std::size_t slot = 0; slot < rows.size(); ++slot)
      if (rows[slot] > 0) of_expert[experts[slot]] += rows[slot];
    CHECK(of_expert.size() == 3);
    CHECK(sum(rows) == 3);
  }
}

TEST_CASE("what a token chooses depends neither on the order of draws nor on how they are split") {
  const ExpertLoad load{.layers = zipf_load(256, 0.5).layers, .drift = 0.28, .request_spread = 1.2};
  const ExpertLayout layout{.dies = 32, .redundant = 32};
  const Routing one(r1(), layout, load, 5, 3), same(r1(), layout, load, 5, 3), other(r1(), layout, load, 6, 3);
  const Rows whole = drawn(one, {{1, 0, 900}, {2, 50, 40}, {3, 0, 1}});
  CHECK(drawn(same, {{3, 0, 1}, {1, 450, 450}, {2, 70, 20}, {1, 0, 1}, {1, 1, 449}, {2, 50, 20}}) == whole);
  Rows added(same.record_size());
  for (const TokenRange& range : {TokenRange{2, 50, 40}, TokenRange{3, 0, 1}, TokenRange{1, 0, 900}})
    same.draw(std::array{range}, added);
  CHECK(added == whole);
  CHECK(drawn(other, {{1, 0, 900}, {2, 50, 40}, {3, 0, 1}}) != whole);
  CHECK(drawn(one, {{4, 0, 900}, {2, 50, 40}, {3, 0, 1}}) != whole);
  CHECK(sum(whole) == 941 * 8 * 3);
  // Layers differ, too.
  CHECK(!std::ranges::equal(layer_of(whole, one, 0), layer_of(whole, one, 1)));
}

TEST_CASE("slots are used as the loads say, and copies of an expert equally") {
  ExpertLoad load = zipf_load(256, 0.8);
  load.layers.push_back(load.layers[0]);
  std::reverse(load.layers[1].begin(), load.layers[1].end());
  const ExpertLayout layout{.dies = 320, .shared_dies = 32, .redundant = 32};
  for (const double spread : {0.0, 1.2}) {
    load.request_spread = spread;
    const Routing routing(r1(), layout, load, 11, 3);
    std::vector<TokenRange> tokens;
    constexpr int kTokens = 40000;
    for (std::uint64_t request = 0; request < kTokens / 4; ++request) tokens.push_back({request, 100, 4});
    const Rows rows = drawn(routing, tokens);
    for (int layer = 0; layer < 3; ++layer) {
      const std::vector<double>& loads = load.layers[static_cast<std::size_t>(layer % 2)];
      const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
      const std::vector<int> experts = place_experts(loads, 288, 288);
      std::vector<std::vector<double>> copies(256);
      for (std::size_t slot = 0; slot < 288; ++slot)
        copies[static_cast<std::size_t>(experts[slot])].push_back(layer_of(rows, routing, layer)[slot]);
      double worst = 0, uneven = 0;
      for (std::size_t expert = 0; expert < 256; ++expert) {
        const double expected = kTokens * 8 * loads[expert] / total;
        const double came = std::accumulate(copies[expert].begin(), copies[expert].end(), 0.0);
        // Beside chance: four tokens of a request favour the same slots.
        const double chance = std::sqrt((1 + 4 * spread * spread) / expected);
        worst = std::max(worst, std::abs(came / expected - 1) / (0.04 + 4 * chance));
        const auto n = static_cast<double>(copies[expert].size());
        for (const double copy : copies[expert])
          uneven = std::max(uneven, std::abs(copy * n / came - 1) / (0.01 + 4 * chance * std::sqrt(n)));
      }
      INFO("layer " << layer << ", spread " << spread);
      CHECK(worst < 1);
      CHECK(uneven < 1);
    }
  }
}

TEST_CASE("rows follow experts to other slots, and the tokens' choices stay") {
  ExpertLoad load = zipf_load(14, 0.8);
  load.drift = 0.3;
  const ExpertLayout layout{.dies = 9, .shared_dies = 1, .redundant = 2};
  const Routing still(model_of(14, 3), layout, load, 3, 2);
  Routing moved(model_of(14, 3), layout, load, 3, 2);
  const std::vector<TokenRange> tokens{{1, 0, 3000}, {9, 50, 1000}};
  const std::span<const std::uint32_t> first = still.first_placement(1);
  // Layer 1: all slots turned round, and the copies of one expert given to another.
  std::vector<int> placement(first.rbegin(), first.rend());
  std::vector<int> copies(14);
  for (const int expert : placement) ++copies[static_cast<std::size_t>(expert)];
  const auto hot = std::max_element(copies.begin(), copies.end()) - copies.begin();
  REQUIRE(copies[static_cast<std::size_t>(hot)] > 1);
  *std::find(placement.begin(), placement.end(), static_cast<int>(hot)) = 13;
  moved.place(1, placement);
  const Rows before = drawn(still, tokens), after = drawn(moved, tokens);
  CHECK(drawn(moved, tokens) == after);
  CHECK(std::ranges::equal(layer_of(before, still, 0), layer_of(after, moved, 0)));
  std::vector<std::int64_t> chosen(14), came(14);
  for (std::size_t slot = 0; slot < 16; ++slot) {
    chosen[first[slot]] += layer_of(before, still, 1)[slot];
    came[static_cast<std::size_t>(placement[slot])] += layer_of(after, moved, 1)[slot];
  }
  CHECK(came == chosen);
  for (std::size_t slot = 0; slot < 16; ++slot)  // both copies of expert 13 are used, and alike
    if (placement[slot] == 13)
      CHECK(layer_of(after, moved, 1)[slot] == Approx(static_cast<double>(chosen[13]) / 2).epsilon(0.15));
  CHECK(drawn(moved, {}) == Rows(moved.record_size()));
}

TEST_CASE("experts that were placed for other loads are used as the loads say") {
  ExpertLoad load = zipf_load(14, 0.4);
  load.forecast = {std::vector<double>(14, 1.0)};
  const ExpertLayout layout{.dies = 7};
  const Routing routing(model_of(14, 3), layout, load, 3, 2);
  const std::vector<int> even = place_experts(load.forecast[0], 14, 7);
  for (int layer = 0; layer < 2; ++layer) CHECK(std::ranges::equal(routing.first_placement(layer), even));
  load.forecast.clear();
  const Routing placed(model_of(14, 3), layout, load, 3, 2);
  const std::vector<TokenRange> tokens{{1, 0, 4000}};
  CHECK(skew_of(drawn(routing, tokens), routing, 14, 7) > 1.05 * skew_of(drawn(placed, tokens), placed, 14, 7));
  load.forecast = {{1, 2, 3}};
  CHECK_THROWS_WITH(Routing(model_of(14, 3), layout, load, 3, 2), Catch::Contains("a forecast of 3 experts"));
}

TEST_CASE("drift lasts: a slot is off by the same amount whoever comes") {
  const Routing routing(r1(), {.dies = 320, .shared_dies = 32, .redundant = 32}, {.drift = 0.28}, 1, 4);
  const Rows some = drawn(routing, {{1, 0, 20000}}), others = drawn(routing, {{2, 0, 20000}});
  double variance = 0, product = 0;
  for (std::size_t i = 0; i < some.size(); ++i) {
    if (i % 320 >= 288) continue;
    const double mean = 20000 * 8 / 288.0, one = some[i] / mean - 1, two = others[i] / mean - 1;
    variance += (one * one + two * two) / 2 / (4 * 288);
    product += one * two / (4 * 288);
  }
  CHECK(std::sqrt(product) == Approx(0.28).epsilon(0.06));
  CHECK(variance - product == Approx(288.0 / 8 / 20000).epsilon(0.2));  // chance
}

TEST_CASE("a request favours its own share of the slots") {
  const Routing routing(r1(), {.dies = 32, .redundant = 32}, {.request_spread = 1.2}, 1, 8);
  int used = 0, both = 0;
  const Rows one = drawn(routing, {{1, 0, 1000}}), two = drawn(routing, {{2, 0, 1000}});
  for (std::size_t i = 0; i < one.size(); ++i) {
    used += one[i] > 0;
    both += one[i] > 0 && two[i] > 0;
  }
  const double share = 1 / (1 + 1.2 * 1.2);
  CHECK(used == Approx(8 * 288 * share).epsilon(0.07));
  CHECK(both == Approx(8 * 288 * share * share).epsilon(0.15));
}

TEST_CASE("the busiest die of a decode iteration is as busy as the formula says") {
  // 320 dies with 48 requests each, two tokens a request.
  const ExpertLayout layout = published_decode(96, 4096).layout;
  std::vector<TokenRange> tokens;
  for (std::uint64_t request = 0; request < 320 * 48; ++request)
    tokens.push_back({request, static_cast<std::int64_t>(4096 + request % 777), 2});
  for (const ExpertLoad& load : {ExpertLoad{}, ExpertLoad{.drift = kDrift, .request_spread = kRequestSpread}}) {
    const Routing routing(r1(), layout, load, 1, 20);
    const double expected = expert_skew(load, 288, 288, 320 * 96 * 8 / 288.0, 320 * 48);
    CHECK(skew_of(drawn(routing, tokens), routing, 288, 288) == Approx(expected).epsilon(load.drift > 0 ? 0.03 : 0.01));
  }
}

TEST_CASE("the busiest die of a prefill microbatch is as busy as the formula says") {
  // 32 dies with two prompts each.
  const ExpertLayout layout = published_prefill(4096).layout;
  std::vector<TokenRange> tokens;
  for (std::uint64_t request = 0; request < 64; ++request) tokens.push_back({request, 0, 4096});
  for (const ExpertLoad& load : {ExpertLoad{}, ExpertLoad{.drift = kDrift, .request_spread = kRequestSpread}}) {
    const Routing routing(r1(), layout, load, 1, load.drift > 0 ? 16 : 4);
    const double expected = expert_skew(load, 288, 32, 32 * 8192 * 8 / 288.0, 64);
    CHECK(skew_of(drawn(routing, tokens), routing, 288, 32) == Approx(expected).epsilon(load.drift > 0 ? 0.03 : 0.003));
  }
}

TEST_CASE("the dies of the shared experts are loaded equally") {
  ModelShape model = model_of(72, 4);
  model.shared_experts = 2;
  const Routing routing(model, {.dies = 40, .shared_dies = 4}, {}, 1, 2);
  for (const int tokens : {1, 4, 13, 96}) {
    Rows all(routing.record_size());
    for (int die = 0; die < 40; ++die) {
      Rows rows(routing.record_size());
      routing.add_shared(die, tokens, rows);
      for (int layer = 0; layer < 2; ++layer) {
        CHECK(sum(layer_of(rows, routing, layer).first(72)) == 0);
        const std::span<const std::int32_t> shared = layer_of(rows, routing, layer).last(4);
        CHECK(sum(shared) == tokens * 2);
        const auto [least, most] = std::minmax_element(shared.begin(), shared.end());
        CHECK(*most - *least <= 2);
      }
      std::transform(all.begin(), all.end(), rows.begin(), all.begin(), std::plus<>());
    }
    for (int layer = 0; layer < 2; ++layer)
      for (const std::int32_t rows : layer_of(all, routing, layer).last(4)) CHECK(rows == tokens * 40 / 4 * 2);
  }
  // Every die has a copy beside its routed experts: no row leaves.
  const Routing beside(model, {.dies = 8}, {}, 1, 2);
  Rows rows(beside.record_size());
  beside.add_shared(3, 5, rows);
  CHECK(sum(rows) == 0);
}

TEST_CASE("a token finds its slots where few can be had") {
  // Four experts for eight choices: each once.
  const Routing few(model_of(4, 8), {.dies = 2}, {.drift = 0.3, .request_spread = 1.2}, 1, 3);
  CHECK(drawn(few, {{1, 0, 10}}) == Rows(12, 10));
  // Nobody uses three of four experts.
  const Routing one_used(model_of(4, 3), {.dies = 2}, {.layers = {{0, 1, 0, 0}}}, 1, 1);
  const Rows rows = drawn(one_used, {{1, 0, 100}});
  CHECK(sum(rows) == 300);
  CHECK(*std::max_element(rows.begin(), rows.end()) == 100);
  // A request favours one slot of a hundred.
  const Routing narrow(model_of(64, 8), {.dies = 8}, {.request_spread = 10}, 1, 3);
  for (std::uint64_t request = 0; request < 50; ++request) {
    const Rows chosen = drawn(narrow, {{request, 0, 1}});
    CHECK(sum(chosen) == 24);
    CHECK(*std::max_element(chosen.begin(), chosen.end()) == 1);
  }
}

TEST_CASE("routing refuses what does not fit its model") {
  CHECK_THROWS_AS(Routing(r1(), {.dies = 32, .redundant = 1}, {}, 1, 2), std::invalid_argument);
  CHECK_THROWS_WITH(Routing(r1(), {.dies = 32}, {.layers = {{1, 2}}}, 1, 2), "loads of 2 experts for a model of 256");
  CHECK_THROWS_AS(Routing(model_of(2, 1), {.dies = 1}, {.layers = {{0, 0}}}, 1, 2), std::invalid_argument);
}

TEST_CASE("an alias table draws each index in proportion to its weight") {
  const std::array<double, 5> weights{3, 0, 1, 0.5, 5.5};
  const AliasTable table(weights);
  std::array<int, 5> counts{};
  constexpr std::uint32_t kSteps = 1u << 16;
  for (std::uint32_t i = 0; i < kSteps; ++i) ++counts[table(i << 16)];
  for (std::size_t i = 0; i < weights.size(); ++i) CHECK(counts[i] == Approx(kSteps * weights[i] / 10).margin(8));
}
