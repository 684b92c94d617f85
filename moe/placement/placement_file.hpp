#pragma once
// The file of a placement to start from. (Measured loads: runtime/core/expert_counts.)

#include <string>
#include <string_view>
#include <vector>

#include "moe/placement/placement.hpp"

namespace supernode::moe {

/// A placement of `layers` layers: a document of `supernode place --format json`, or {"layers":
/// [{"physical_to_logical": [slots]}]}, or, as other tools write it, {"physical_to_logical_map": [layers][slots]}.
/// @param source the file's path, for messages. @returns [layer][slot]. @throws UsageError naming source and layer: other counts than the shape's, an expert that
/// does not exist or has no slot.
std::vector<std::vector<int>> parse_placement(std::string_view text, const std::string& source,
                                              const PlacementShape& shape, std::size_t layers);

}  // namespace supernode::moe
