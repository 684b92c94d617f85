#include "moe/placement/placement_file.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/json.hpp"

namespace supernode::moe {
namespace {

/// One layer of a placement. @param where what it is, for messages
std::vector<int> parse_layer(const Json& list, const std::string& where, const PlacementShape& shape) {
  if (!list.is_array()) throw UsageError(fmt::format("{} is not a list", where));
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
  return placement;
}

}  // namespace

std::vector<std::vector<int>> parse_placement(std::string_view text, const std::string& source,
                                              const PlacementShape& shape, std::size_t layers) {
  constexpr const char* map_key = "physical_to_logical_map";
  const Json document = parse_json(text, source);
  const Json& json = document.is_object() && document.contains("results") ? document["results"] : document;
  const bool has_layers = json.is_object() && json.contains("layers"),
             has_map = json.is_object() && json.contains(map_key);
  if (has_layers && has_map)
    throw UsageError(fmt::format("{}: both 'layers' and '{}': which of them is the placement?", source, map_key));
  const char* const key = has_map ? map_key : "layers";
  if (!json.is_object() || !json.contains(key) || !json[key].is_array())
    throw UsageError(fmt::format("{}: no 'layers' or '{}', a list", source, map_key));
  if (json[key].size() != layers)
    throw UsageError(fmt::format("{}: {} layers, but the loads have {}", source, json[key].size(), layers));
  std::vector<std::vector<int>> placements;
  for (const Json& row : json[key]) {
    if (has_map) {
      placements.push_back(parse_layer(row, fmt::format("{}: {}[{}]", source, map_key, placements.size()), shape));
      continue;
    }
    const std::string where = fmt::format("{}: layers[{}].physical_to_logical", source, placements.size());
    if (!row.is_object() || !row.contains("physical_to_logical")) throw UsageError(where + " is not a list");
    placements.push_back(parse_layer(row["physical_to_logical"], where, shape));
  }
  return placements;
}

}  // namespace supernode::moe
