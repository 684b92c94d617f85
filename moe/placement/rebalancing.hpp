#pragma once
// Better places for experts while a model serves: what changes, which weights must travel for it, and in which pieces.
// Pure.

#include <cstddef>
#include <span>
#include <vector>

#include "moe/placement/placement.hpp"

namespace supernode::moe {

/// When experts get other places, and how many at once.
struct RebalancingPolicy {
  double threshold = 1.2;  ///< a layer whose busiest rank has more than this times the mean takes part
  int max_moves = 64;      ///< experts that come to another rank in one rebalancing, all layers together
};

/// A slot whose expert was on another rank before.
struct SlotTransfer {
  int slot = 0;  ///< of the new placement
  int expert = 0;
  int source_slot = 0;  ///< of the old one: who sends the weights
};

/// New places for the experts of one layer.
struct LayerChange {
  int layer = 0;
  std::vector<int> placement;  ///< [slots]; those of a rank in ascending order of experts
  std::vector<SlotTransfer> transfers;
};

/// What it takes to get from `before` to `after`, whose slots within a rank are put in order: where an expert stays on
/// its rank nothing travels. Of several ranks that hold an expert the one that has sent least sends it.
LayerChange change_of(int layer, std::span<const int> before, std::vector<int> after, const PlacementShape& shape);

/// Lowers max/mean over ranks by at most policy.max_moves moves in all layers that are above the threshold
/// (improve_placements()); a layer that gains less than a fiftieth stays as it is. Equal arguments give equal results.
/// @param loads [layer][expert] @param placements [layer][slot] of now
/// @returns changes in the order in which they are to be made: the greatest gain for an expert moved first
/// Cost: as improve_placements().
std::vector<LayerChange> rebalance(std::span<const std::vector<double>> loads,
                                   std::span<const std::vector<int>> placements, const PlacementShape& shape,
                                   const RebalancingPolicy& policy);

/// A piece of an expert's weights on its way.
struct MovePiece {
  int layer = 0, expert = 0;
  int from = 0, to = 0;              ///< ranks
  std::size_t first = 0, count = 0;  ///< bytes of the weights
};

/// The moves of a rebalancing, step by step. All ranks make the same one, so nobody need be told what comes when.
class MovePlan {
 public:
  MovePlan() = default;  ///< nothing to do
  /// @param expert_bytes of an expert's weights, > 0
  MovePlan(std::vector<LayerChange> changes, const PlacementShape& shape, std::size_t expert_bytes);

  bool done() const { return next_change_ == changes_.size(); }
  /// What travels in the next step: as much as can, so that no rank sends or receives more than `most` bytes (at least
  /// one). Layers come one after the other.
  std::vector<MovePiece> next(std::size_t most);
  /// The changes whose weights have all travelled since the last call, in order.
  std::vector<LayerChange> take_complete();

 private:
  struct Transfer {
    SlotTransfer what;
    int from = 0, to = 0;
    std::size_t sent = 0;
  };
  void begin_layer();

  std::vector<LayerChange> changes_;
  std::size_t expert_bytes_ = 0;
  int slots_per_rank_ = 1;
  std::size_t ranks_ = 0;
  std::size_t next_change_ = 0;      ///< the one whose weights travel
  std::size_t taken_ = 0;            ///< changes before it that take_complete() has given
  std::vector<Transfer> transfers_;  ///< of next_change_
};

}  // namespace supernode::moe
