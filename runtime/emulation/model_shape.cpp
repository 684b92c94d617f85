#include "runtime/emulation/model_shape.hpp"

#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"

namespace supernode::emulation {

double ModelShape::attention_weights() const {
  const double queries = heads * (nope + rope);
  const double q = q_lora > 0 ? hidden * q_lora + q_lora * queries : hidden * queries;
  return q + hidden * latent() + kv_lora * heads * (nope + value) + heads * value * hidden;
}

double ModelShape::weights() const {
  const double dense = 3 * hidden * dense_ffn;
  const double moe = (experts + shared_experts) * expert_weights() + hidden * experts;
  return layers * attention_weights() + dense_layers * dense + (layers - dense_layers) * moe + 2 * vocabulary * hidden;
}

ModelShape parse_model_shape(const std::string& text, const std::string& source) {
  const Json json = parse_json(text, source);
  if (!json.is_object()) throw UsageError(fmt::format("{}: not a JSON object", source));
  const auto number = [&](const char* key, double low, double high) {
    if (!json.contains(key)) throw UsageError(fmt::format("{}: '{}' is missing", source, key));
    const Json& value = json[key];
    if (value.is_null() && low == 0) return 0.0;  // "q_lora_rank": null means none
    if (!value.is_number()) throw UsageError(fmt::format("{}: '{}' is {}, not a number", source, key, value.dump()));
    const double found = value.get<double>();
    if (!(found >= low && found <= high) || found != std::floor(found))
      throw UsageError(fmt::format("{}: '{}' is {}, outside [{:g}, {:g}]", source, key, value.dump(), low, high));
    return found;
  };
  constexpr double kMost = 1e8;
  ModelShape m;
  m.name = std::filesystem::path(source).parent_path().filename().string();
  m.layers = static_cast<int>(number("num_hidden_layers", 1, 1e4));
  m.dense_layers = static_cast<int>(number("first_k_dense_replace", 0, m.layers));
  m.mtp_layers =
      json.contains("num_nextn_predict_layers") ? static_cast<int>(number("num_nextn_predict_layers", 0, 16)) : 0;
  m.hidden = number("hidden_size", 1, kMost);
  m.dense_ffn = number("intermediate_size", 1, kMost);
  m.expert_ffn = number("moe_intermediate_size", 1, kMost);
  m.experts = static_cast<int>(number("n_routed_experts", 1, 1e6));
  m.shared_experts = static_cast<int>(number("n_shared_experts", 0, 1e3));
  m.topk = static_cast<int>(number("num_experts_per_tok", 1, m.experts));
  m.heads = number("num_attention_heads", 1, kMost);
  m.q_lora = number("q_lora_rank", 0, kMost);
  m.kv_lora = number("kv_lora_rank", 1, kMost);
  m.rope = number("qk_rope_head_dim", 0, kMost);
  m.nope = number("qk_nope_head_dim", 1, kMost);
  m.value = number("v_head_dim", 1, kMost);
  m.vocabulary = number("vocab_size", 1, 1e9);
  return m;
}

ModelShape load_model_shape(const std::string& name) {
  const std::string path = std::filesystem::is_directory(name) && name.find('/') != std::string::npos
                               ? name + "/config.json"
                               : config_path("models", name, "/config.json");
  return parse_model_shape(read_file(path), path);
}

}  // namespace supernode::emulation
