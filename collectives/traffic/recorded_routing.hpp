#pragma once
// Routing that was recorded from real models.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace supernode::collectives {

/// Routing of a real model, recorded in one of its layers: how often each expert was chosen, or the choices of single
/// tokens.
struct RecordedRouting {
  std::string source;  ///< the file
  int layer = 0;       ///< of the file
  int num_experts = 0;
  std::vector<double> counts;            ///< [num_experts]
  int topk = 0;                          ///< choices of a token; 0: only counts were recorded
  std::vector<std::int32_t> expert_ids;  ///< [tokens, topk], -1 = none
};

/// Two forms. {"logical_count": [[..]..]} holds a count for each expert in each layer. Lines of JSON with "routing":
/// [{"layer_index", "expert_ids": [..]}..] hold a token each; other lines are passed over. Ids of -1
/// are padding: those choices go nowhere.
/// @param layer of the file; -1: the first that has any choices
/// @throws UsageError naming source and line for text of neither form, layers without choices, tokens of different topk
RecordedRouting parse_recorded_routing(std::string_view text, const std::string& source, int layer);

}  // namespace supernode::collectives
