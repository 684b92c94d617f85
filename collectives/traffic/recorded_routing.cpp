#include "collectives/traffic/recorded_routing.hpp"

#include <algorithm>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/expert_counts.hpp"
#include "runtime/core/json.hpp"
#include "runtime/core/text.hpp"

namespace supernode::collectives {
namespace {

RecordedRouting parse_counts(const Json& json, const std::string& source, int layer) {
  const auto bad = [&](const std::string& why) { return UsageError(fmt::format("{}: {}", source, why)); };
  const ExpertCounts layers = expert_counts_in(json, source);
  if (layer >= static_cast<int>(layers.size()))
    throw bad(fmt::format("has layers 0 to {}, not {}", layers.size() - 1, layer));
  for (int i = std::max(layer, 0); i < static_cast<int>(layers.size()); ++i) {
    const std::vector<double>& counts = layers[static_cast<std::size_t>(i)];
    if (std::accumulate(counts.begin(), counts.end(), 0.0) > 0)
      return {source, i, static_cast<int>(counts.size()), counts, 0, {}};
    if (layer >= 0) throw bad(fmt::format("nothing was routed in layer {}", layer));
  }
  throw bad("no layer has any counts");
}

/// The choices of one token in a layer; empty when the line has none there.
std::vector<std::int32_t> choices_in(const Json& routing, int& layer) {
  for (const Json& entry : routing) {
    const int index = entry.at("layer_index").get<int>();
    if (layer < 0) layer = index;
    if (index == layer) return entry.at("expert_ids").get<std::vector<std::int32_t>>();
  }
  return {};
}

RecordedRouting parse_tokens(std::string_view text, const std::string& source, int layer) {
  RecordedRouting result{source, layer, 0, {}, 0, {}};
  LineReader lines(text, source);
  const auto bad = [&](const std::string& why) { return lines.error(why); };
  while (lines.next()) {
    if (lines.blank()) continue;
    const Json json = parse_if_json(lines.line()).value_or(Json());
    if (!json.is_object()) throw bad("not a JSON object (is the file truncated?)");
    // Experts that no recorded token chose count too.
    if (json.contains("provenance") && json["provenance"].is_object())
      result.num_experts = std::max(result.num_experts, json["provenance"].value("expert_count", 0));
    if (!json.contains("routing")) continue;
    std::vector<std::int32_t> ids;
    try {
      ids = choices_in(json["routing"], result.layer);
    } catch (const Json::exception&) {
      throw bad("routing is not a list of {layer_index, expert_ids}");
    }
    if (ids.empty()) continue;
    if (result.topk == 0) result.topk = static_cast<int>(ids.size());
    if (static_cast<int>(ids.size()) != result.topk)
      throw bad(fmt::format("{} experts, but {} in the tokens before", ids.size(), result.topk));
    std::vector<std::int32_t> chosen(ids);
    std::erase(chosen, -1);
    std::sort(chosen.begin(), chosen.end());
    if (!chosen.empty() && chosen.front() < 0) throw bad("a negative expert id other than -1, which means none");
    if (std::adjacent_find(chosen.begin(), chosen.end()) != chosen.end()) throw bad("the same expert twice");
    result.num_experts = std::max(result.num_experts, *std::max_element(ids.begin(), ids.end()) + 1);
    result.expert_ids.insert(result.expert_ids.end(), ids.begin(), ids.end());
  }
  if (result.topk == 0)
    throw UsageError(fmt::format("{}: no tokens with recorded routing{}", source,
                                 layer >= 0 ? fmt::format(" in layer {}", layer) : std::string()));
  if (std::ranges::all_of(result.expert_ids, [](std::int32_t id) { return id == -1; }))
    throw UsageError(fmt::format("{}: all recorded choices are -1, none", source));
  result.counts.resize(static_cast<std::size_t>(result.num_experts));
  for (const std::int32_t id : result.expert_ids)
    if (id >= 0) ++result.counts[static_cast<std::size_t>(id)];
  return result;
}

}  // namespace

RecordedRouting parse_recorded_routing(std::string_view text, const std::string& source, int layer) {
  const std::optional<Json> whole = parse_if_json(text);  // lines of JSON are none together
  if (whole && whole->is_object() && whole->contains("logical_count")) return parse_counts(*whole, source, layer);
  return parse_tokens(text, source, layer);
}

}  // namespace supernode::collectives
