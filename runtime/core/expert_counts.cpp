#include "runtime/core/expert_counts.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode {

ExpertCounts parse_expert_counts(std::string_view text, const std::string& source) {
  return expert_counts_in(parse_json(text, source), source);
}

ExpertCounts expert_counts_in(const Json& document, const std::string& source) {
  if (!document.is_object() || !document.contains("logical_count") || !document["logical_count"].is_array())
    throw UsageError(fmt::format("{}: no 'logical_count', a list of layers", source));
  ExpertCounts layers;
  for (const Json& row : document["logical_count"]) {
    const std::size_t layer = layers.size();
    if (!row.is_array()) throw UsageError(fmt::format("{}: logical_count[{}] is not a list", source, layer));
    if (layer > 0 && row.size() != layers[0].size())
      throw UsageError(fmt::format("{}: logical_count[{}] has {} experts, but logical_count[0] has {}", source, layer,
                                   row.size(), layers[0].size()));
    std::vector<double> counts;
    for (const Json& count : row) {
      // Sums of counts stay exact far beyond anything that is counted.
      if (!count.is_number() || !(count.get<double>() >= 0) || count.get<double>() > 1e15)
        throw UsageError(fmt::format("{}: logical_count[{}][{}] is not a count", source, layer, counts.size()));
      counts.push_back(count.get<double>());
    }
    layers.push_back(std::move(counts));
  }
  if (layers.empty() || layers[0].empty()) throw UsageError(fmt::format("{}: 'logical_count' is empty", source));
  return layers;
}

}  // namespace supernode
