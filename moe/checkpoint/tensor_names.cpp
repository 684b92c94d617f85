#include "moe/checkpoint/tensor_names.hpp"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>
#include <set>

namespace supernode::moe {
namespace {

template <std::size_t n>
bool among(std::string_view name, const std::string_view (&names)[n]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

/// Takes a number and a point off the front of `text`.
std::optional<int> take_index(std::string_view& text) {
  int index = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc{} || index < 0 || end == text.data() + text.size() || *end != '.') return {};
  text.remove_prefix(static_cast<std::size_t>(end - text.data()) + 1);
  return index;
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

bool is_unit_matrix(std::string_view name) {
  return among(name, {"gate_proj.weight", "up_proj.weight", "down_proj.weight"});
}

bool attention_reads(std::string_view name, const ModelConfig& c) {
  if (among(name, {"kv_a_proj_with_mqa.weight", "kv_a_layernorm.weight", "kv_b_proj.weight", "o_proj.weight"}))
    return true;
  return c.q_lora_rank > 0 ? among(name, {"q_a_proj.weight", "q_a_layernorm.weight", "q_b_proj.weight"})
                           : name == "q_proj.weight";
}

/// @param name behind "model.layers.<layer>."
bool layer_reads(std::string_view name, int layer, const ModelConfig& c) {
  if (among(name, {"input_layernorm.weight", "post_attention_layernorm.weight"})) return true;
  if (take_prefix(name, "self_attn.")) return attention_reads(name, c);
  if (!take_prefix(name, "mlp.")) return false;
  if (!c.is_moe_layer(layer)) return is_unit_matrix(name);
  if (name == "gate.weight") return true;
  if (name == "gate.e_score_correction_bias") return c.method == GateMethod::noaux_tc;
  if (take_prefix(name, "shared_experts.")) return c.n_shared_experts > 0 && is_unit_matrix(name);
  if (!take_prefix(name, "experts.")) return false;
  const std::optional<int> expert = take_index(name);
  return expert && *expert < c.n_routed_experts && is_unit_matrix(name);
}

bool module_reads(std::string_view name, int layer, const ModelConfig& c) {
  return layer_reads(name, layer, c) ||
         among(name, {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight",
                      "shared_head.head.weight", "embed_tokens.weight"});
}

}  // namespace

TensorUse use_of_tensors(const std::vector<std::string>& names, const ModelConfig& c) {
  struct Name {
    const std::string* whole;
    std::string_view rest;
    int layer;  ///< -1: of no layer
  };
  std::vector<Name> parsed;
  std::set<int> modules;
  for (const std::string& name : names) {
    std::string_view rest = name;
    int layer = -1;
    if (take_prefix(rest, "model.layers.")) {
      if (const std::optional<int> index = take_index(rest)) layer = *index;
    }
    parsed.push_back({&name, rest, layer});
    if (layer >= c.n_layers && rest == "eh_proj.weight") modules.insert(layer);
  }
  TensorUse use;
  for (const auto& [whole, rest, layer] : parsed) {
    if (whole->ends_with("rotary_emb.inv_freq")) continue;  // follows from the configuration
    if (layer < 0) {
      const bool read = *whole == "lm_head.weight" || among(*whole, {"model.embed_tokens.weight", "model.norm.weight"});
      (read ? use.read : use.unread).push_back(*whole);
    } else if (layer < c.n_layers) {
      (layer_reads(rest, layer, c) ? use.read : use.foreign).push_back(*whole);
    } else if (!modules.contains(layer)) {
      use.foreign.push_back(*whole);
    } else if (layer == c.n_layers && c.n_mtp_layers > 0) {
      (module_reads(rest, layer, c) ? use.read : use.foreign).push_back(*whole);
    }
  }
  return use;
}

}  // namespace supernode::moe
