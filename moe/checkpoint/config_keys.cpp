#include "moe/checkpoint/config_keys.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace supernode::moe {
namespace {

using Refuse = std::function<void(const std::string&, const std::string&)>;

/// What says nothing about how logits are computed from tokens.
constexpr std::string_view harmless_keys[] = {
    // names and versions
    "auto_map", "finetuning_task", "name_or_path", "task_specific_params", "tokenizer_class", "unsloth_fixed",
    // how the model was made or is stored
    "aux_loss_alpha", "dtype", "torch_dtype", "initializer_range", "init_method", "output_router_logits",
    "pretraining_tp", "router_aux_loss_coef", "router_z_loss_coef", "seq_aux", "torchscript", "use_bfloat16",
    "tf_legacy_loss",
    // how a program runs it
    "attn_implementation", "chunk_size_feed_forward", "ep_size", "output_attentions", "output_hidden_states",
    "return_dict", "return_dict_in_generate", "use_cache", "use_return_dict",
    // how texts are generated; labels of classifiers
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "id2label", "label2id", "length_penalty",
    "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences",
    "output_scores", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty", "suppress_tokens",
    "temperature", "top_k", "top_p", "typical_p"};

/// The same, by the end of the name.
constexpr std::string_view harmless_ends[] = {"_version",  "_dropout",     "_pdrop",
                                              "_token_id", "_token_index", "_loss_coef"};

bool is_harmless(std::string_view key) {
  return key.starts_with('_') ||
         std::find(std::begin(harmless_keys), std::end(harmless_keys), key) != std::end(harmless_keys) ||
         std::any_of(std::begin(harmless_ends), std::end(harmless_ends),
                     [&](std::string_view end) { return key.ends_with(end); });
}

/// Null, false, empty: whatever it is, it is off.
bool is_off(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         ((value.is_array() || value.is_object()) && value.empty()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty());
}

std::string show(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

/// Keys with the one value that is computed. The first two are those that must be on.
struct FixedKey {
  std::string_view key;
  enum class Value { true_only, false_only, one, absent } value;
};
using Value = FixedKey::Value;
constexpr FixedKey fixed_keys[] = {{"rope_interleave", Value::true_only},
                                   {"causal", Value::true_only},
                                   {"is_causal", Value::true_only},
                                   {"attention_bias", Value::false_only},
                                   {"mlp_bias", Value::false_only},
                                   {"use_bias", Value::false_only},
                                   {"qkv_bias", Value::false_only},
                                   {"lm_head_bias", Value::false_only},
                                   {"use_qk_norm", Value::false_only},
                                   {"qk_norm", Value::false_only},
                                   {"qk_layernorm", Value::false_only},
                                   {"use_qk_layernorm", Value::false_only},
                                   {"gated_attention", Value::false_only},
                                   {"attn_output_gate", Value::false_only},
                                   {"attention_output_gate", Value::false_only},
                                   {"use_sliding_window", Value::false_only},
                                   {"is_decoder", Value::false_only},
                                   {"is_encoder_decoder", Value::false_only},
                                   {"add_cross_attention", Value::false_only},
                                   {"tie_encoder_decoder", Value::false_only},
                                   {"partial_rotary_factor", Value::one},
                                   {"logit_scale", Value::one},
                                   {"logits_scaling", Value::one},
                                   {"embedding_multiplier", Value::one},
                                   {"residual_multiplier", Value::one},
                                   {"rope_ratio", Value::one},
                                   {"final_logit_softcapping", Value::absent},
                                   {"attn_logit_softcapping", Value::absent},
                                   {"swiglu_limit", Value::absent},
                                   {"index_topk", Value::absent},
                                   {"index_n_heads", Value::absent},
                                   {"index_head_dim", Value::absent},
                                   {"query_pre_attn_scalar", Value::absent},
                                   {"attention_multiplier", Value::absent}};

/// @returns whether `key` is a fixed one.
bool check_fixed(const std::string& key, const Json& value, const Refuse& refuse) {
  const auto row = std::find_if(std::begin(fixed_keys), std::end(fixed_keys),
                                [&](const FixedKey& fixed) { return fixed.key == key; });
  if (row == std::end(fixed_keys)) return false;
  const auto only = [&](bool right, std::string_view wanted) {
    if (!right) refuse(key, fmt::format("is {}, but this program computes with {}", show(value), wanted));
  };
  switch (row->value) {
    case Value::true_only:
      only(value.is_boolean() && value.get<bool>(), "true");
      break;
    case Value::false_only:
      only(value.is_boolean() && !value.get<bool>(), "false");
      break;
    case Value::one:
      only(value.is_number() && value.get<double>() == 1, "1");
      break;
    case Value::absent:
      only(false, "none");
  }
  return true;
}

/// Sizes that follow from others, under further names.
bool check_sizes(const std::string& key, const Json& value, const ModelConfig& c, const Refuse& refuse) {
  const auto one_of = [&](std::initializer_list<int> right, std::string_view meaning) {
    if (!value.is_number_integer() || std::find(right.begin(), right.end(), value.get<double>()) == right.end())
      refuse(key, fmt::format("is {}, but the other sizes give {} ({})", show(value), *right.begin(), meaning));
    return true;
  };
  if (key == "num_key_value_heads") return one_of({c.n_heads}, "num_attention_heads: every head has its own keys");
  if (key == "head_dim") return one_of({c.rope_dim, c.qk_dim()}, "qk_rope_head_dim");
  if (key == "qk_head_dim") return one_of({c.qk_dim()}, "qk_nope_head_dim + qk_rope_head_dim");
  if (key == "num_experts" || key == "num_local_experts") return one_of({c.n_routed_experts}, "n_routed_experts");
  return false;
}

/// One entry a layer. @param name_of_layer what the entry of a layer must be
bool check_layers(const std::string& key, const Json& value, const ModelConfig& c, const Refuse& refuse,
                  const std::function<std::string_view(int)>& name_of_layer) {
  if (!value.is_array() || value.size() < static_cast<std::size_t>(c.n_layers))
    refuse(key, fmt::format("is {}, not a list of {} layers", show(value), c.n_layers));
  for (int layer = 0; layer < c.n_layers; ++layer) {
    const Json& entry = value[static_cast<std::size_t>(layer)];
    if (!entry.is_string() || entry.get_ref<const std::string&>() != name_of_layer(layer))
      refuse(key, fmt::format("says {} of layer {}, which this program computes as {}", show(entry), layer,
                              name_of_layer(layer)));
  }
  return true;
}

void check_key(const std::string& key, const Json& value, const Json& json, const ModelConfig& c,
               const Refuse& refuse) {
  if (value.is_null() || is_harmless(key) || check_fixed(key, value, refuse) || check_sizes(key, value, c, refuse))
    return;
  const bool window_is_off = json.contains("use_sliding_window") && json["use_sliding_window"].is_boolean() &&
                             !json["use_sliding_window"].get<bool>();
  if (key == "sliding_window") {
    const bool never_reached = value.is_number() && value.get<double>() >= c.max_positions;
    if (!is_off(value) && !window_is_off && !never_reached)
      refuse(key, fmt::format("is {}, but here a token attends to all before it", show(value)));
    return;
  }
  if (key == "max_window_layers" && window_is_off) return;
  if (key == "layer_types") {
    check_layers(key, value, c, refuse, [](int) { return "full_attention"; });
    return;
  }
  if (key == "mlp_layer_types") {
    check_layers(key, value, c, refuse, [&](int layer) { return c.is_moe_layer(layer) ? "sparse" : "dense"; });
    return;
  }
  if (key == "moe_router_dtype" || key == "router_dtype") {
    if (value != "float32" && value != "fp32") refuse(key, fmt::format("is {}; supported: float32", show(value)));
    return;
  }
  if (!is_off(value))
    refuse(key, fmt::format("is {}, and unknown: if it changes nothing of what the model computes, take it out of "
                            "config.json",
                            show(value)));
}

}  // namespace

void check_unread_keys(const Json& json, const ModelConfig& config, const std::set<std::string, std::less<>>& read,
                       const Refuse& refuse) {
  for (const auto& [key, value] : json.items())
    if (!read.contains(key)) check_key(key, value, json, config, refuse);
}

}  // namespace supernode::moe
