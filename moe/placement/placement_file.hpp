#pragma once
// The two files that placement reads: measured loads, and a placement to start from.

#include <string>
#include <string_view>
#include <vector>

#include "moe/placement/placement.hpp"

namespace supernode::moe {

/// {"logical_count": [layers][experts]}: how often each expert was chosen. A row of zeros is a dense layer.
/// @param source the file's path, for messages. @returns [layer][expert], all rows of equal length, nothing negative.
/// @throws UsageError naming source, layer and expert.
std::vector<std::vector<double>> parse_expert_loads(std::string_view text, const std::string& source);

/// A placement of `layers` layers: a document of `supernode place --format json`, or {"layers":
/// [{"physical_to_logical": [slots]}]}, or, as other tools write it, {"physical_to_logical_map": [layers][slots]}.
/// @returns [layer][slot]. @throws UsageError naming source and layer: other counts than the shape's, an expert that
/// does not exist or has no slot.
std::vector<std::vector<int>> parse_placement(std::string_view text, const std::string& source,
                                              const PlacementShape& shape, std::size_t layers);

}  // namespace supernode::moe
