#pragma once
// Better placements step by step from a given one, each step as cheap as it can be. Pure.

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "moe/placement/placement.hpp"

namespace supernode::moe {

/// One transfer of an expert's weights into a slot. A step is one move (a copy takes the slot of another expert's
/// further copy) or two (slots of two ranks swap their experts).
struct ExpertMove {
  int layer = 0, slot = 0;
  int expert = 0;       ///< the slot's new expert
  int replaced = 0;     ///< the one it held
  int source_slot = 0;  ///< a slot that held `expert` before the step
  double gain = 0;      ///< by how much the layer's max/mean over ranks fell; each move of a swap has half
};

/// Whether a step may bring a second copy of an expert to a rank, which takes a slot to shift shares of its load.
enum class RepeatedCopies { allowed, avoided };

inline constexpr int unlimited_moves = std::numeric_limits<int>::max();

/// Brings apart copies of an expert that lie on one rank, where another slot can take them: two slots swap their
/// experts, or a further copy gives its slot to another expert; of all ways the one after which the hottest rank has
/// least, and among these the evenest. Where the shape is hierarchical an expert goes only to nodes that hold it. What
/// is left has no other slot. Returns the moves, as improve_placements() does; their gain may be negative. Cost:
/// O(redundant copies * (slots + experts) * ranks).
std::vector<ExpertMove> separate_copies(std::span<const std::vector<double>> loads,
                                        std::span<std::vector<int>> placements, const PlacementShape& shape);

/// Lowers max/mean over ranks of all layers by at most `max_moves` moves in all. Always takes the step with the
/// greatest gain per move over the layers; a step that gains nothing is taken only when it evens out ranks that prevent
/// a gain. Stops when no step helps. Where the shape is hierarchical an expert goes only to nodes that hold it.
/// @param loads [layer][expert]; @param placements [layer][slot], changed in place; every expert is in some slot.
/// Cost: a step takes O(slots_per_rank * (slots + experts) * ranks).
std::vector<ExpertMove> improve_placements(std::span<const std::vector<double>> loads,
                                           std::span<std::vector<int>> placements, const PlacementShape& shape,
                                           int max_moves = unlimited_moves,
                                           RepeatedCopies repeated = RepeatedCopies::allowed);

/// What a change of a whole placement costs: the slots whose new expert was on none of their rank's slots before.
/// Source slots and gains as above; the gain of a move is the layer's whole gain shared evenly.
std::vector<ExpertMove> moves_between(std::span<const std::vector<double>> loads,
                                      std::span<const std::vector<int>> before, std::span<const std::vector<int>> after,
                                      const PlacementShape& shape);

}  // namespace supernode::moe
