// Experts that get better places: who decides what, and in which pieces their weights travel.
#include "moe/placement/rebalancing.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "moe/placement/placement_moves.hpp"
#include "tests/support/catch.hpp"

namespace supernode::moe {
namespace {

const PlacementShape shape{.experts = 12, .slots = 16, .ranks = 4};

/// Expert e in slot e, and second copies of the first ones in the rest.
std::vector<int> first_placement() {
  std::vector<int> placement(16);
  for (int slot = 0; slot < 16; ++slot) placement[static_cast<std::size_t>(slot)] = slot % 12;
  return placement;
}

/// Those of rank 1, of which there is one copy, have most of the load; more so in later layers.
std::vector<std::vector<double>> skewed_loads(int layers) {
  std::vector<std::vector<double>> loads;
  for (int layer = 0; layer < layers; ++layer) {
    std::vector<double>& row = loads.emplace_back();
    for (int expert = 0; expert < 12; ++expert)
      row.push_back(100 + (expert / 4 == 1 ? 40 + 80 * layer + expert : expert));
  }
  return loads;
}

double imbalance(const std::vector<double>& loads, const std::vector<int>& placement) {
  return max_over_mean(rank_loads(loads, placement, shape));
}

std::multiset<int> of_rank(const std::vector<int>& placement, int rank) {
  const auto first = placement.begin() + rank * 4;
  return {first, first + 4};
}

bool alike(const LayerChange& a, const LayerChange& b) {
  return a.layer == b.layer && a.placement == b.placement && a.transfers.size() == b.transfers.size();
}

/// Follows a plan: each byte of each transfer once, in order, within the budget.
void check_plan(const std::vector<LayerChange>& changes, std::size_t bytes, std::size_t most) {
  MovePlan plan(changes, shape, bytes);
  std::map<std::tuple<int, int, int, int>, std::size_t> moved;  // by layer, expert, from, to
  std::size_t switched = 0;
  for (int step = 0; !plan.done(); ++step) {
    REQUIRE(step < 10000);
    std::map<int, std::size_t> sent, received;
    for (const MovePiece& piece : plan.next(most)) {
      REQUIRE(piece.count > 0);
      REQUIRE(piece.from != piece.to);
      std::size_t& so_far = moved[{piece.layer, piece.expert, piece.from, piece.to}];
      REQUIRE(piece.first == so_far);
      so_far += piece.count;
      sent[piece.from] += piece.count;
      received[piece.to] += piece.count;
    }
    for (const auto* by_rank : {&sent, &received})
      for (const auto& [rank, count] : *by_rank) REQUIRE(count <= most);
    for (const LayerChange& change : plan.take_complete()) {
      REQUIRE(alike(change, changes.at(switched)));
      for (const SlotTransfer& one : change.transfers) {
        const int from = shape.rank_of(one.source_slot), to = shape.rank_of(one.slot);
        REQUIRE(moved[std::tuple(change.layer, one.expert, from, to)] == bytes);
      }
      ++switched;
    }
  }
  CHECK(switched == changes.size());
  CHECK(plan.next(most).empty());
}

}  // namespace

TEST_CASE("rebalancing: layers below the threshold stay as they are") {
  const std::vector<std::vector<double>> loads = skewed_loads(3);
  const std::vector<std::vector<int>> now(3, first_placement());
  std::vector<double> before;
  for (const auto& row : loads) before.push_back(imbalance(row, now[0]));
  REQUIRE((before[0] < before[1] && before[1] < before[2]));
  for (const double threshold : {1.0, (before[0] + before[1]) / 2, before[1], before[2]}) {
    std::set<int> above, changed;
    for (int layer = 0; layer < 3; ++layer)
      if (before[static_cast<std::size_t>(layer)] > threshold) above.insert(layer);
    for (const LayerChange& change : rebalance(loads, now, shape, {.threshold = threshold, .max_moves = 100}))
      changed.insert(change.layer);
    CHECK(changed == above);
  }
}

TEST_CASE("rebalancing: every change is worth its moves, and the best comes first") {
  const std::vector<std::vector<double>> loads = skewed_loads(4);
  const std::vector<std::vector<int>> now(4, first_placement());
  for (const int most : {1, 2, 5, 100}) {
    const std::vector<LayerChange> changes = rebalance(loads, now, shape, {.threshold = 1.05, .max_moves = most});
    REQUIRE_FALSE(changes.empty());
    std::size_t moves = 0;
    double last = 1e9;
    for (const LayerChange& change : changes) {
      const std::vector<double>& of_layer = loads[static_cast<std::size_t>(change.layer)];
      const double gain = imbalance(of_layer, now[0]) - imbalance(of_layer, change.placement);
      CHECK(gain > 0);
      CHECK(gain / static_cast<double>(change.transfers.size()) <= last);
      last = gain / static_cast<double>(change.transfers.size());
      moves += change.transfers.size();
      // No expert is lost.
      for (const int copies : count_copies(change.placement, 12)) CHECK(copies > 0);
    }
    CHECK(moves <= static_cast<std::size_t>(most));
  }
  const std::vector<std::vector<double>> even(4, std::vector<double>(12, 7.0));
  const std::vector<std::vector<int>> spread(
      4, place_experts(even[0], {.experts = 12, .slots = 16, .groups = 1, .nodes = 1, .ranks = 4}));
  CHECK(rebalance(even, spread, shape, {.threshold = imbalance(even[0], spread[0]), .max_moves = 100}).empty());
}

TEST_CASE("rebalancing: the same counts lead to the same changes") {
  const std::vector<std::vector<double>> loads = skewed_loads(3);
  const std::vector<std::vector<int>> now(3, first_placement());
  const RebalancingPolicy policy{.threshold = 1.1, .max_moves = 9};
  const std::vector<LayerChange> one = rebalance(loads, now, shape, policy),
                                 other = rebalance(loads, now, shape, policy);
  REQUIRE(one.size() == other.size());
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(alike(one[i], other[i]));
}

TEST_CASE("a change moves what comes to a rank, from a rank that has it, and nothing else") {
  const std::vector<int> before = first_placement();
  std::vector<int> after{3, 7, 1, 11, 4, 5, 6, 0, 8, 9, 10, 2, 0, 1, 2, 3};
  const LayerChange change = change_of(5, before, after, shape);
  CHECK(change.layer == 5);
  std::multiset<std::pair<int, int>> come;  // rank, expert
  for (const SlotTransfer& one : change.transfers) {
    CHECK(change.placement[static_cast<std::size_t>(one.slot)] == one.expert);
    CHECK(before[static_cast<std::size_t>(one.source_slot)] == one.expert);
    CHECK(shape.rank_of(one.slot) != shape.rank_of(one.source_slot));
    come.insert({shape.rank_of(one.slot), one.expert});
  }
  CHECK(come == std::multiset<std::pair<int, int>>{{0, 7}, {0, 11}, {1, 0}, {2, 2}});
  for (int rank = 0; rank < 4; ++rank) {
    CHECK(of_rank(change.placement, rank) == of_rank(after, rank));
    CHECK(std::is_sorted(change.placement.begin() + rank * 4, change.placement.begin() + rank * 4 + 4));
  }
  CHECK(change_of(0, before, before, shape).transfers.empty());
  // Two copies on a rank are one transfer, and two ranks that have an expert share the sending.
  std::vector<int> twice = before;
  twice[4] = twice[5] = 2;
  twice[8] = 3;
  CHECK(change_of(0, before, twice, shape).transfers.size() == 2);
  std::vector<int> ones = before;
  ones[4] = 0, ones[8] = 1;
  std::set<int> senders;
  for (const SlotTransfer& one : change_of(0, before, ones, shape).transfers)
    senders.insert(shape.rank_of(one.source_slot));
  CHECK(senders == std::set<int>{0, 3});
}

TEST_CASE("a plan moves each byte once and no more in a step than is allowed") {
  const std::vector<std::vector<double>> loads = skewed_loads(3);
  const std::vector<std::vector<int>> now(3, first_placement());
  const std::vector<LayerChange> changes = rebalance(loads, now, shape, {.threshold = 1.02, .max_moves = 100});
  REQUIRE(changes.size() == 3);
  for (const std::size_t most : {1, 7, 100, 130, 1000000}) check_plan(changes, 100, most);
  check_plan({}, 100, 10);
  // Only slots of a rank change places: nothing travels, and the change is there at once.
  std::vector<int> turned = first_placement();
  std::swap(turned[0], turned[1]);
  MovePlan local({change_of(0, turned, first_placement(), shape)}, shape, 100);
  CHECK(local.done());
  CHECK(local.take_complete().size() == 1);
  CHECK(MovePlan().done());
}

}  // namespace supernode::moe
