#include "moe/placement/rebalancing.hpp"

#include <algorithm>
#include <utility>

#include "moe/placement/placement_moves.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {

constexpr double least_gain = 0.02;

std::size_t at(int index) { return static_cast<std::size_t>(index); }

/// The slots of a rank.
template <class Slots>
auto slots_of(Slots& placement, int rank, const PlacementShape& shape) {
  return std::span(placement).subspan(at(rank * shape.slots_per_rank()), at(shape.slots_per_rank()));
}

double imbalance(std::span<const double> loads, std::span<const int> placement, const PlacementShape& shape) {
  return max_over_mean(rank_loads(loads, placement, shape));
}

}  // namespace

LayerChange change_of(int layer, std::span<const int> before, std::vector<int> after, const PlacementShape& shape) {
  LayerChange change{layer, std::move(after), {}};
  std::vector<int> sent(at(shape.ranks));
  for (int rank = 0; rank < shape.ranks; ++rank) {
    const auto mine = slots_of(change.placement, rank, shape);
    std::sort(mine.begin(), mine.end());
    const auto had = slots_of(before, rank, shape);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const int expert = mine[i];
      const bool here = std::find(had.begin(), had.end(), expert) != had.end();
      if (here || (i > 0 && mine[i - 1] == expert)) continue;
      int source = -1;
      for (int slot = 0; slot < shape.slots; ++slot) {
        if (before[at(slot)] != expert) continue;
        if (source < 0 || sent[at(shape.rank_of(slot))] < sent[at(shape.rank_of(source))]) source = slot;
      }
      expect(source >= 0, "change_of: an expert that is nowhere");
      ++sent[at(shape.rank_of(source))];
      change.transfers.push_back({rank * shape.slots_per_rank() + static_cast<int>(i), expert, source});
    }
  }
  return change;
}

std::vector<LayerChange> rebalance(std::span<const std::vector<double>> loads,
                                   std::span<const std::vector<int>> placements, const PlacementShape& shape,
                                   const RebalancingPolicy& policy) {
  expect(loads.size() == placements.size(), "rebalance: layers differ");
  std::vector<int> layers;  // that take part
  std::vector<double> before;
  std::vector<std::vector<double>> their_loads;
  std::vector<std::vector<int>> improved;
  for (std::size_t layer = 0; layer < loads.size(); ++layer) {
    const double now = imbalance(loads[layer], placements[layer], shape);
    if (now <= policy.threshold) continue;
    layers.push_back(static_cast<int>(layer));
    before.push_back(now);
    their_loads.push_back(loads[layer]);
    improved.push_back(placements[layer]);
  }
  improve_placements(their_loads, improved, shape, policy.max_moves, RepeatedCopies::avoided);
  struct Candidate {
    double gain_per_move;
    LayerChange change;
  };
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const double gain = before[i] - imbalance(their_loads[i], improved[i], shape);
    if (gain < least_gain * before[i]) continue;
    LayerChange change = change_of(layers[i], placements[at(layers[i])], std::move(improved[i]), shape);
    if (change.transfers.empty()) continue;
    candidates.push_back({gain / static_cast<double>(change.transfers.size()), std::move(change)});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.gain_per_move > b.gain_per_move; });
  std::vector<LayerChange> changes;
  for (Candidate& candidate : candidates) changes.push_back(std::move(candidate.change));
  return changes;
}

MovePlan::MovePlan(std::vector<LayerChange> changes, const PlacementShape& shape, std::size_t expert_bytes)
    : changes_(std::move(changes)),
      expert_bytes_(expert_bytes),
      slots_per_rank_(shape.slots_per_rank()),
      ranks_(at(shape.ranks)) {
  expect(expert_bytes > 0, "MovePlan: experts without weights");
  begin_layer();
}

void MovePlan::begin_layer() {
  transfers_.clear();
  // A change may be one of slots within ranks only.
  for (; next_change_ < changes_.size(); ++next_change_) {
    for (const SlotTransfer& one : changes_[next_change_].transfers)
      transfers_.push_back({one, one.source_slot / slots_per_rank_, one.slot / slots_per_rank_, 0});
    if (!transfers_.empty()) return;
  }
}

std::vector<MovePiece> MovePlan::next(std::size_t most) {
  const std::size_t room = std::max<std::size_t>(most, 1);
  std::vector<std::size_t> sends(ranks_, room), receives(ranks_, room);
  std::vector<MovePiece> pieces;
  while (!done()) {
    bool complete = true;
    for (Transfer& one : transfers_) {
      std::size_t& from = sends[at(one.from)];
      std::size_t& to = receives[at(one.to)];
      const std::size_t count = std::min({expert_bytes_ - one.sent, from, to});
      if (count > 0)
        pieces.push_back({changes_[next_change_].layer, one.what.expert, one.from, one.to, one.sent, count});
      one.sent += count;
      from -= count;
      to -= count;
      complete = complete && one.sent == expert_bytes_;
    }
    if (!complete) break;
    ++next_change_;
    begin_layer();
  }
  return pieces;
}

std::vector<LayerChange> MovePlan::take_complete() {
  std::vector<LayerChange> complete;
  for (; taken_ < next_change_; ++taken_) complete.push_back(std::move(changes_[taken_]));
  return complete;
}

}  // namespace supernode::moe
