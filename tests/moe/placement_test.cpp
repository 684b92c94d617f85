// Placement against the published example, a brute-force evaluation, recorded loads, and a table of bad input.
#include "moe/placement/placement.hpp"

#include <algorithm>
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "moe/placement/placement_file.hpp"
#include "moe/placement/placement_moves.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/expert_counts.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"
#include "tests/support/catch.hpp"

namespace supernode::moe {
namespace {

const std::vector<std::vector<double>> example_loads{{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                                                     {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
const PlacementShape example_shape{.experts = 12, .slots = 16, .groups = 4, .nodes = 2, .ranks = 8};

std::vector<double> sorted_rank_loads(const std::vector<double>& loads, const std::vector<int>& placement,
                                      const PlacementShape& shape) {
  std::vector<double> result = rank_loads(loads, placement, shape);
  std::sort(result.begin(), result.end());
  return result;
}

/// Skewed loads that are the same in every run.
std::vector<double> skewed(int experts, int seed) {
  std::vector<double> loads;
  std::uint32_t state = 12345u + static_cast<std::uint32_t>(seed);
  for (int expert = 0; expert < experts; ++expert) {
    state = state * 1664525u + 1013904223u;
    const double u = (state >> 8) / 16777216.0;
    loads.push_back(std::floor(1000 * u * u * u * u) + 1);
  }
  return loads;
}

double imbalance(const std::vector<double>& loads, const std::vector<int>& placement, const PlacementShape& shape) {
  return max_over_mean(rank_loads(loads, placement, shape));
}

}  // namespace

TEST_CASE("placement: the published example") {
  const std::vector<std::vector<int>> published{{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
                                                {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}};
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const std::vector<int> placement = place_experts(example_loads[layer], example_shape);
    CHECK(count_copies(placement, 12) == count_copies(published[layer], 12));
    CHECK(sorted_rank_loads(example_loads[layer], placement, example_shape) ==
          sorted_rank_loads(example_loads[layer], published[layer], example_shape));
    CHECK(imbalance(example_loads[layer], placement, example_shape) ==
          Approx(imbalance(example_loads[layer], published[layer], example_shape)));
  }
  // No ties decide here, so the ids are the published ones too.
  CHECK(place_experts(example_loads[1], example_shape) == published[1]);
}

TEST_CASE("placement: every shape keeps its promises") {
  const PlacementShape shapes[] = {
      {8, 8, 1, 1, 1},      {8, 8, 8, 4, 8},        {8, 16, 2, 2, 4},     {16, 24, 4, 2, 8}, {16, 24, 3, 2, 8},
      {256, 288, 8, 4, 32}, {256, 320, 8, 20, 160}, {256, 256, 8, 8, 64}, {5, 7, 1, 1, 7},   {3, 12, 1, 3, 6}};
  for (const PlacementShape& shape : shapes) {
    INFO(shape.experts << " experts, " << shape.slots << " slots, " << shape.groups << " groups, " << shape.nodes
                       << " nodes, " << shape.ranks << " ranks");
    check(shape);
    for (int seed = 0; seed < 3; ++seed) {
      const std::vector<double> loads = skewed(shape.experts, seed);
      const std::vector<int> placement = place_experts(loads, shape);
      const std::vector<int> copies = count_copies(placement, shape.experts);
      CHECK(static_cast<int>(placement.size()) == shape.slots);
      CHECK(*std::min_element(copies.begin(), copies.end()) >= 1);
      const std::vector<double> by_rank = rank_loads(loads, placement, shape);
      CHECK(std::accumulate(by_rank.begin(), by_rank.end(), 0.0) ==
            Approx(std::accumulate(loads.begin(), loads.end(), 0.0)));
      if (!shape.hierarchical()) continue;
      for (int group = 0; group < shape.groups; ++group) {
        std::set<int> nodes;
        for (int slot = 0; slot < shape.slots; ++slot)
          if (placement[static_cast<std::size_t>(slot)] / (shape.experts / shape.groups) == group)
            nodes.insert(shape.rank_of(slot) / (shape.ranks / shape.nodes));
        CHECK(nodes.size() == 1);
      }
    }
  }
}

TEST_CASE("placement: equal loads and no loads come out even") {
  const PlacementShape shape{.experts = 8, .slots = 12, .groups = 2, .nodes = 2, .ranks = 4};
  const std::vector<double> none(8, 0.0);
  const std::vector<int> copies = count_copies(place_experts(none, shape), 8);
  CHECK(*std::max_element(copies.begin(), copies.end()) == 2);
  CHECK(imbalance(none, place_experts(none, shape), shape) == 0);
  const PlacementShape twice{.experts = 8, .slots = 16, .groups = 1, .nodes = 1, .ranks = 4};
  CHECK(imbalance(std::vector<double>(8, 5.0), place_experts(std::vector<double>(8, 5.0), twice), twice) == Approx(1));
  CHECK(unplaced_rank_loads(std::vector<double>{1, 2, 3, 4, 5}, 3) == std::vector<double>{3, 7, 5});
}

TEST_CASE("placement: moves improve step by step, within their budget, and say what they gain") {
  for (const PlacementShape& shape : {PlacementShape{16, 24, 1, 1, 4}, PlacementShape{16, 24, 4, 2, 8}}) {
    std::vector<std::vector<double>> loads{skewed(16, 1), std::vector<double>(16, 0.0), skewed(16, 2)};
    // A placement for other loads.
    std::vector<std::vector<int>> start;
    for (int layer = 0; layer < 3; ++layer) start.push_back(place_experts(std::vector<double>(16, 1.0), shape));
    double previous = 1e9;
    for (const int budget : {0, 1, 2, 3, 5, 8, 100}) {
      std::vector<std::vector<int>> placements = start;
      const std::vector<ExpertMove> moves = improve_placements(loads, placements, shape, budget);
      CHECK(static_cast<int>(moves.size()) <= budget);
      CHECK(placements[1] == start[1]);
      double gain = 0, total = 0, total_start = 0;
      std::vector<std::vector<int>> replayed = start;
      for (const ExpertMove& move : moves) {
        gain += move.gain;
        CHECK(move.gain >= -1e-9);
        CHECK(replayed[static_cast<std::size_t>(move.layer)][static_cast<std::size_t>(move.slot)] == move.replaced);
        replayed[static_cast<std::size_t>(move.layer)][static_cast<std::size_t>(move.slot)] = move.expert;
      }
      CHECK(replayed == placements);
      for (std::size_t layer = 0; layer < 3; ++layer) {
        const std::vector<int> copies = count_copies(placements[layer], 16);
        CHECK(*std::min_element(copies.begin(), copies.end()) >= 1);
        total += imbalance(loads[layer], placements[layer], shape);
        total_start += imbalance(loads[layer], start[layer], shape);
      }
      CHECK(total_start - total == Approx(gain).margin(1e-9));
      CHECK(total <= previous + 1e-9);
      previous = total;
    }
    CHECK(previous < 2 * 1.5);
  }
}

TEST_CASE("placement: a search from the published result is never worse, and keeps groups in their nodes") {
  std::vector<std::vector<int>> placements;
  for (const std::vector<double>& layer : example_loads) placements.push_back(place_experts(layer, example_shape));
  const std::vector<std::vector<int>> published = placements;
  improve_placements(example_loads, placements, example_shape);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    CHECK(imbalance(example_loads[layer], placements[layer], example_shape) <=
          imbalance(example_loads[layer], published[layer], example_shape) + 1e-9);
    for (int slot = 0; slot < 16; ++slot) {
      const int expert = placements[layer][static_cast<std::size_t>(slot)];
      const auto first = published[layer].begin() + slot / 8 * 8;
      CHECK(std::find(first, first + 8, expert) != first + 8);
    }
  }
}

TEST_CASE("placement: two copies on one rank are counted, and brought apart where another slot exists") {
  // Three copies of expert 0 on two ranks: one of them is redundant, and stays only without another expert to take
  // over.
  const PlacementShape shape{.experts = 3, .slots = 6, .groups = 1, .nodes = 1, .ranks = 2};
  CHECK(count_redundant(std::vector<int>{0, 0, 1, 0, 1, 2}, shape) == 1);
  CHECK(count_redundant(std::vector<int>{0, 0, 0, 1, 1, 2}, shape) == 3);
  CHECK(count_redundant(std::vector<int>{0, 1, 2, 0, 1, 2}, shape) == 0);
  const std::vector<std::vector<double>> loads{{100, 1, 1}};
  std::vector<std::vector<int>> placements{place_experts(loads[0], shape)};
  REQUIRE(count_redundant(placements[0], shape) > 0);  // what was published gives expert 0 four copies
  const std::vector<std::vector<int>> published = placements;
  std::vector<std::vector<int>> replayed = placements;
  for (const ExpertMove& move : separate_copies(loads, placements, shape)) {
    CHECK(replayed[0][static_cast<std::size_t>(move.slot)] == move.replaced);
    CHECK(replayed[0][static_cast<std::size_t>(move.source_slot)] == move.expert);
    replayed[0][static_cast<std::size_t>(move.slot)] = move.expert;
  }
  CHECK(replayed == placements);
  CHECK(count_redundant(placements[0], shape) == 0);
  CHECK(count_copies(placements[0], 3) == std::vector<int>{2, 2, 2});
  CHECK(imbalance(loads[0], placements[0], shape) <= imbalance(loads[0], published[0], shape) + 1e-9);

  // A search keeps them apart, if told to.
  for (int seed = 0; seed < 5; ++seed) {
    const PlacementShape many{.experts = 16, .slots = 32, .groups = 4, .nodes = 2, .ranks = 8};
    const std::vector<std::vector<double>> skew{skewed(16, seed)};
    std::vector<std::vector<int>> searched{place_experts(skew[0], many)};
    separate_copies(skew, searched, many);
    CHECK(count_redundant(searched[0], many) == 0);
    improve_placements(skew, searched, many, unlimited_moves, RepeatedCopies::avoided);
    CHECK(count_redundant(searched[0], many) == 0);
    const std::vector<int> copies = count_copies(searched[0], 16);
    CHECK(*std::min_element(copies.begin(), copies.end()) >= 1);
  }
  // Two experts in four slots of one rank: there is no other slot.
  const PlacementShape narrow{.experts = 2, .slots = 4, .groups = 1, .nodes = 1, .ranks = 1};
  std::vector<std::vector<int>> stuck{{0, 1, 0, 1}};
  CHECK(separate_copies(std::vector<std::vector<double>>{{1, 2}}, stuck, narrow).empty());
  CHECK(count_redundant(stuck[0], narrow) == 2);
}

TEST_CASE("placement: the moves between two placements") {
  const PlacementShape shape{.experts = 4, .slots = 6, .groups = 1, .nodes = 1, .ranks = 2};
  const std::vector<std::vector<double>> loads{{9, 1, 1, 1}};
  const std::vector<std::vector<int>> before{{0, 1, 2, 3, 3, 3}}, after{{2, 0, 1, 0, 3, 0}};
  const std::vector<ExpertMove> moves = moves_between(loads, before, after, shape);
  REQUIRE(moves.size() == 2);  // the first rank only changes its order
  CHECK(moves[0].slot == 3);
  CHECK(moves[0].expert == 0);
  CHECK(moves[0].source_slot == 0);
  CHECK(moves[0].gain + moves[1].gain == Approx(2 * (11.0 - 7.0) / 12));
  CHECK(moves_between(loads, before, before, shape).empty());
}

TEST_CASE("placement: shapes that cannot be get one line") {
  const struct {
    PlacementShape shape;
    const char* message;
  } rows[] = {
      {{8, 7, 1, 1, 7}, "7 replicas do not hold 8 experts"},
      {{8, 10, 1, 1, 4}, "4 ranks do not divide 10 replicas"},
      {{9, 12, 2, 2, 4}, "2 groups do not divide 9 experts"},
      {{8, 12, 4, 4, 6}, "4 nodes do not divide 6 ranks"},
      {{8, 12, 4, 4, 0}, "0 ranks; at least 1"},
      {{0, 12, 4, 4, 2}, "0 experts; at least 1"},
  };
  for (const auto& row : rows) {
    CHECK_THROWS_AS(check(row.shape), UsageError);
    CHECK_THROWS_WITH(check(row.shape), Catch::Contains(row.message));
  }
}

TEST_CASE("placement: files, good and bad") {
  const PlacementShape shape{.experts = 2, .slots = 3, .groups = 1, .nodes = 1, .ranks = 3};
  const std::vector<std::vector<int>> good{{0, 1, 1}};
  CHECK(parse_placement(R"({"layers": [{"physical_to_logical": [0, 1, 1]}]})", "p", shape, 1) == good);
  CHECK(parse_placement(R"({"results": {"layers": [{"physical_to_logical": [0, 1, 1]}]}})", "p", shape, 1) == good);
  CHECK(parse_placement(R"({"physical_to_logical_map": [[0, 1, 1]], "other": 1})", "p", shape, 1) == good);
  const struct {
    const char *text, *message;
  } placements[] = {
      {R"({"physical_to_logical_map": 3})", "p: no 'layers' or 'physical_to_logical_map', a list"},
      {R"({"physical_to_logical_map": [[0, 1, 1], [0, 1, 1]]})", "p: 2 layers, but the loads have 1"},
      {R"({"physical_to_logical_map": [[0, 1, 2]]})", "p: physical_to_logical_map[0][2] is not an expert"},
      {R"({"physical_to_logical_map": [3]})", "p: physical_to_logical_map[0] is not a list"},
      {R"({"physical_to_logical_map": [[0, 1, 1]], "layers": []})", "p: both 'layers' and"},
      {"nonsense", "p: not valid JSON"},
      {"{}", "p: no 'layers'"},
      {R"({"layers": []})", "p: 0 layers, but the loads have 1"},
      {R"({"layers": [[0, 1, 1]]})", "p: layers[0].physical_to_logical is not a list"},
      {R"({"layers": [{"physical_to_logical": [0, 1]}]})", "p: layers[0].physical_to_logical has 2 entries, not 3"},
      {R"({"layers": [{"physical_to_logical": [0, 1, 2]}]})", "p: layers[0].physical_to_logical[2] is not an expert"},
      {R"({"layers": [{"physical_to_logical": [0, -1, 1]}]})", "p: layers[0].physical_to_logical[1] is not an expert"},
      {R"({"layers": [{"physical_to_logical": [0, 0, 0]}]})",
       "p: layers[0].physical_to_logical has no slot for expert 1"},
  };
  for (const auto& row : placements) {
    INFO(row.text);
    CHECK_THROWS_AS(parse_placement(row.text, "p", shape, 1), UsageError);
    CHECK_THROWS_WITH(parse_placement(row.text, "p", shape, 1), Catch::StartsWith(row.message));
  }
}

TEST_CASE("placement: recorded loads fall to what the published algorithm reaches") {
  const struct {
    const char* file;
    PlacementShape shape;
    double unplaced, limit;
  } rows[] = {{"data/routing/r1_decode_in2000_out100.json", {256, 320, 8, 20, 160}, 5.2, 1.0465},
              {"data/routing/r1_prefill_in4096.json", {256, 288, 8, 4, 32}, 3.0, 1.3172}};
  for (const auto& row : rows) {
    const std::string path = test::shared_path(row.file);
    if (path.empty()) return;
    double before = 0, after = 0;
    int layers = 0;
    for (const std::vector<double>& loads : parse_expert_counts(read_file(path), path)) {
      if (max_over_mean(loads) == 0) continue;
      ++layers;
      before += max_over_mean(unplaced_rank_loads(loads, row.shape.ranks));
      after += imbalance(loads, place_experts(loads, row.shape), row.shape);
    }
    CHECK(layers == 58);
    CHECK(before / layers > row.unplaced);
    CHECK(after / layers < row.limit);
  }
}

}  // namespace supernode::moe
