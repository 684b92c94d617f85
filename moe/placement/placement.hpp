#pragma once
// Where the experts of a layer live when some of them have several copies. Pure.
// A layer has `slots` places for expert weights; rank r owns slots [r * slots_per_rank, (r + 1) * slots_per_rank). All
// copies of an expert carry equal shares of its load. A placement is a list: the expert of every slot.

#include <span>
#include <string>
#include <vector>

namespace supernode::moe {

/// What is placed on what; all counts.
struct PlacementShape {
  int experts = 0;  ///< logical experts of a layer
  int slots = 0;    ///< physical experts in all: experts and their further copies
  int groups = 1;   ///< groups of consecutive experts, which the gate limits tokens to
  int nodes = 1;
  int ranks = 1;

  int slots_per_rank() const { return slots / ranks; }
  int rank_of(int slot) const { return slot / slots_per_rank(); }
  /// Whole groups fit nodes: all copies of a group's experts stay in one node. Otherwise nodes do not matter.
  bool hierarchical() const { return groups % nodes == 0; }
  /// Ranks among which the copies of an expert may be: those of a node, or all.
  int ranks_per_island() const { return hierarchical() ? ranks / nodes : ranks; }
};

/// @throws UsageError naming both numbers: a count below 1, fewer slots than experts, ranks that do not divide the
/// slots, groups that do not divide the experts or nodes that do not divide the ranks of a hierarchical placement.
void check(const PlacementShape& shape);

/// The published EPLB algorithm (DeepSeek, 2025), in single precision as published. Hierarchical: groups are packed
/// onto nodes, experts copied within nodes, copies packed onto the ranks of the node; global is the same with one node
/// that has one group. Copies go one by one to the expert with the largest load per copy (the first of equals; without
/// any load, the one with the fewest copies, so that dense layers come out even).
/// @param loads of the experts, not negative; @pre check(shape). @returns the expert of every slot.
/// Cost: O(experts * copies + slots * ranks).
std::vector<int> place_experts(std::span<const double> loads, const PlacementShape& shape);

/// How many copies every expert has in `placement`.
std::vector<int> count_copies(std::span<const int> placement, int experts);

/// Slots whose expert has a copy in an earlier slot of the same rank already: they take memory and take no load off any
/// rank. The published algorithm makes some where an expert has more copies than there are ranks for it, or packing
/// happens to bring two together.
int count_redundant(std::span<const int> placement, const PlacementShape& shape);

/// The load of every rank under `placement`.
std::vector<double> rank_loads(std::span<const double> loads, std::span<const int> placement,
                               const PlacementShape& shape);

/// The load of every rank when each expert has one copy and ranks hold consecutive experts, as even in number as can
/// be: what a model runs with when nothing was placed.
std::vector<double> unplaced_rank_loads(std::span<const double> loads, int ranks);

/// Largest over mean, at least 1; 0 when nothing has any load.
double max_over_mean(std::span<const double> loads);

}  // namespace supernode::moe
