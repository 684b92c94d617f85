#pragma once
// Files of recorded expert loads, as other tools write them: {"logical_count": [layers][experts]}.

#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/json.hpp"

namespace supernode {

/// How often each expert was chosen, [layer][expert]: all rows are of equal length, nothing is negative. A row of zeros
/// is a layer without routing, a dense one for instance.
using ExpertCounts = std::vector<std::vector<double>>;

/// @param source the file's path, for messages.
/// @throws UsageError naming source, layer and expert: no such list, a layer without experts or of another length, or
/// what is not a count (a number from 0 to 1e15).
ExpertCounts parse_expert_counts(std::string_view text, const std::string& source);

/// The same for a document that is parsed already.
ExpertCounts expert_counts_in(const Json& document, const std::string& source);

}  // namespace supernode
