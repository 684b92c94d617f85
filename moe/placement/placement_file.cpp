#include "moe/placement/placement_file.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/expert_counts.hpp"
#include "runtime/core/json.hpp"

namespace supernode::moe {

std::vector<std::vector<double>> parse_expert_loads(std::string_view text, const std::string& source) {
  return parse_expert_counts(text, source);
}

std::vector<std::vector<int>> parse_placement(std::string_view text, const std::string& source,
                                              const PlacementShape& shape, std::size_t layers) {
  const Json document = parse_json(text, source);
  const Json& json = document.is_object() && document.contains("results") ? document["results"] : document;
  if (!json.is_object() || !json.contains("layers") || !json["layers"].is_array())
    throw UsageError(fmt::format("{}: no 'layers', a list", source));
  if (json["layers"].size() != layers)
    throw UsageError(fmt::format("{}: {} layers, but the loads have {}", source, json["layers"].size(), layers));
  std::vector<std::vector<int>> placements;
  for (const Json& row : json["layers"]) {
    const std::string where = fmt::format("{}: layers[{}].physical_to_logical", source, placements.size());
    if (!row.is_object() || !row.contains("physical_to_logical") || !row["physical_to_logical"].is_array())
      throw UsageError(fmt::format("{} is not a list", where));
    const Json& list = row["physical_to_logical"];
    if (list.size() != static_cast<std::size_t>(shape.slots))
      throw UsageError(fmt::format("{} has {} entries, not {}", where, list.size(), shape.slots));
    std::vector<int> placement;
    for (const Json& expert : list) {
      if (!expert.is_number_unsigned() || expert.get<std::uint64_t>() >= static_cast<std::uint64_t>(shape.experts))
        throw UsageError(fmt::format("{}[{}] is not an expert, 0..{}", where, placement.size(), shape.experts - 1));
      placement.push_back(expert.get<int>());
    }
    const std::vector<int> copies = count_copies(placement, shape.experts);
    if (const auto none = std::find(copies.begin(), copies.end(), 0); none != copies.end())
      throw UsageError(fmt::format("{} has no slot for expert {}", where, none - copies.begin()));
    placements.push_back(std::move(placement));
  }
  return placements;
}

}  // namespace supernode::moe
