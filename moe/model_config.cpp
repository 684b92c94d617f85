#include "moe/model_config.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/json.hpp"

namespace supernode::moe {
namespace {

constexpr int largest_size = 1 << 24;

/// Typed, ranged access to a JSON object; every complaint names the file and the key.
class Reader {
 public:
  Reader(const Json& object, std::string source, std::string prefix = "")
      : object_(object), source_(std::move(source)), prefix_(std::move(prefix)) {}

  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    throw UsageError(fmt::format("{}: '{}{}' {}", source_, prefix_, key, why));
  }
  /// Absent and null are the same.
  const Json* find(const std::string& key) const {
    const auto at = object_.find(key);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }
  int integer(const std::string& key, int low, int high, std::optional<int> fallback = {}) const {
    const Json* value = find(key);
    if (!value) {
      if (!fallback) refuse(key, "is missing");
      return *fallback;
    }
    if (!value->is_number_integer()) refuse(key, fmt::format("is {}, not a whole number", show(*value)));
    const bool inside = value->is_number_unsigned()
                            ? value->get<std::uint64_t>() <= static_cast<std::uint64_t>(high) &&
                                  static_cast<std::int64_t>(value->get<std::uint64_t>()) >= low
                            : value->get<std::int64_t>() >= low && value->get<std::int64_t>() <= high;
    if (!inside) refuse(key, fmt::format("is {}, outside {}..{}", show(*value), low, high));
    return value->get<int>();
  }
  double number(const std::string& key, double low, double high, double fallback) const {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_number()) refuse(key, fmt::format("is {}, not a number", show(*value)));
    const double number = value->get<double>();
    if (!(number >= low && number <= high)) refuse(key, fmt::format("is {}, outside {}..{}", show(*value), low, high));
    return number;
  }
  bool flag(const std::string& key, bool fallback) const {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_boolean()) refuse(key, fmt::format("is {}, not true or false", show(*value)));
    return value->get<bool>();
  }
  std::string text(const std::string& key, std::string fallback) const {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_string()) refuse(key, fmt::format("is {}, not a text", show(*value)));
    return value->get<std::string>();
  }
  template <class Enum, std::size_t n>
  Enum choice(const std::string& key, const std::array<std::pair<std::string_view, Enum>, n>& choices,
              Enum fallback) const {
    if (!find(key)) return fallback;
    const std::string name = text(key, "");
    std::string known;
    for (const auto& [spelling, value] : choices) {
      if (spelling == name) return value;
      known += fmt::format("{}{}", known.empty() ? "" : ", ", spelling);
    }
    refuse(key, fmt::format("is '{}'; supported: {}", name, known));
  }

  static std::string show(const Json& value) {
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    return text;
  }

 private:
  const Json& object_;
  std::string source_, prefix_;
};

std::optional<YarnConfig> read_yarn(const Reader& reader, const std::string& source) {
  const Json* scaling = reader.find("rope_scaling");
  if (!scaling) return {};
  if (!scaling->is_object()) reader.refuse("rope_scaling", "is not an object");
  const Reader inner(*scaling, source, "rope_scaling.");
  const std::string key = inner.find("rope_type") ? "rope_type" : "type";
  const std::string type = inner.text(key, "");
  if (type == "default") return {};
  if (type != "yarn") inner.refuse(key, fmt::format("is '{}'; supported: yarn, default", type));
  YarnConfig yarn;
  yarn.factor = inner.number("factor", 1, 1e6, 1);
  yarn.original_max_positions = inner.integer("original_max_position_embeddings", 1, largest_size);
  yarn.beta_fast = inner.number("beta_fast", 1e-3, 1e6, 32);
  yarn.beta_slow = inner.number("beta_slow", 1e-3, 1e6, 1);
  yarn.mscale = inner.number("mscale", 0, 100, 1);
  yarn.mscale_all_dim = inner.number("mscale_all_dim", 0, 100, 0);
  return yarn;
}

/// One id, a list of ids, or nothing.
std::vector<int> read_eos(const Reader& reader, int vocab_size) {
  const Json* eos = reader.find("eos_token_id");
  if (!eos) return {};
  if (!eos->is_array()) return {reader.integer("eos_token_id", 0, vocab_size - 1)};
  std::vector<int> tokens;
  for (const Json& token : *eos) {
    const bool inside =
        token.is_number_unsigned() && token.get<std::uint64_t>() < static_cast<std::uint64_t>(vocab_size);
    if (!inside)
      reader.refuse("eos_token_id", fmt::format("holds {}, outside 0..{}", Reader::show(token), vocab_size - 1));
    tokens.push_back(token.get<int>());
  }
  return tokens;
}

void read_attention(const Reader& reader, ModelConfig& c) {
  c.n_heads = reader.integer("num_attention_heads", 1, 1 << 12);
  c.q_lora_rank = reader.integer("q_lora_rank", 0, 1 << 16, 0);
  c.kv_lora_rank = reader.integer("kv_lora_rank", 1, 1 << 16);
  c.nope_dim = reader.integer("qk_nope_head_dim", 1, 1 << 14);
  c.rope_dim = reader.integer("qk_rope_head_dim", 2, 1 << 14);
  c.v_dim = reader.integer("v_head_dim", 1, 1 << 14);
  if (c.rope_dim % 2 != 0) reader.refuse("qk_rope_head_dim", fmt::format("is {}, not even", c.rope_dim));
  c.rope_theta = reader.number("rope_theta", 1, 1e12, 10000);
  if (reader.flag("attention_bias", false)) reader.refuse("attention_bias", "is true, which is not supported");
}

void read_experts(const Reader& reader, ModelConfig& c, bool v2) {
  constexpr std::array scorings{std::pair{std::string_view("sigmoid"), GateScoring::sigmoid},
                                std::pair{std::string_view("softmax"), GateScoring::softmax}};
  constexpr std::array methods{std::pair{std::string_view("noaux_tc"), GateMethod::noaux_tc},
                               std::pair{std::string_view("greedy"), GateMethod::greedy},
                               std::pair{std::string_view("group_limited_greedy"), GateMethod::group_limited_greedy}};
  c.n_routed_experts = reader.integer("n_routed_experts", 0, 1 << 16, 0);
  if (c.n_routed_experts == 0) return;
  c.n_shared_experts = reader.integer("n_shared_experts", 0, 1 << 10, 0);
  c.topk = reader.integer("num_experts_per_tok", 1, c.n_routed_experts);
  c.moe_intermediate_size = reader.integer("moe_intermediate_size", 1, largest_size);
  c.first_dense_layers = reader.integer("first_k_dense_replace", 0, largest_size, 0);
  c.moe_layer_freq = reader.integer("moe_layer_freq", 1, largest_size, 1);
  // The two generations of the architecture leave different keys out.
  c.scoring = reader.choice("scoring_func", scorings, v2 ? GateScoring::softmax : GateScoring::sigmoid);
  c.method = reader.choice("topk_method", methods, v2 ? GateMethod::greedy : GateMethod::noaux_tc);
  c.normalise_weights = reader.flag("norm_topk_prob", !v2);
  c.routed_scaling = reader.number("routed_scaling_factor", 1e-6, 1e6, 1);
  if (c.method == GateMethod::greedy) return;
  c.n_groups = reader.integer("n_group", 1, c.n_routed_experts, 1);
  c.topk_groups = reader.integer("topk_group", 1, c.n_groups, c.n_groups);
  if (c.n_routed_experts % c.n_groups != 0)
    reader.refuse("n_group", fmt::format("is {}, which does not divide {} experts", c.n_groups, c.n_routed_experts));
  const int group_size = c.n_routed_experts / c.n_groups;
  if (c.method == GateMethod::noaux_tc && c.n_groups > 1 && group_size < 2)
    reader.refuse("n_group", fmt::format("is {}: groups of one expert have no two best", c.n_groups));
  if (c.topk > c.topk_groups * group_size)
    reader.refuse("num_experts_per_tok", fmt::format("is {}, but {} groups hold {} experts", c.topk, c.topk_groups,
                                                     c.topk_groups * group_size));
}

}  // namespace

ModelConfig parse_model_config(std::string_view text, const std::string& source) {
  const Json json = parse_json(text, source);
  if (!json.is_object()) throw UsageError(fmt::format("{}: not a JSON object", source));
  const Reader reader(json, source);

  const std::string type = reader.text("model_type", "deepseek_v3");
  if (type != "deepseek_v3" && type != "deepseek_v2" && type != "kimi_k2")
    reader.refuse("model_type", fmt::format("is '{}'; supported: deepseek_v3, deepseek_v2, kimi_k2", type));
  if (const std::string act = reader.text("hidden_act", "silu"); act != "silu")
    reader.refuse("hidden_act", fmt::format("is '{}'; supported: silu", act));
  if (reader.find("quantization_config"))
    reader.refuse("quantization_config", "is given: quantised weights are not supported, convert them to BF16 first");

  ModelConfig c;
  c.vocab_size = reader.integer("vocab_size", 1, largest_size);
  c.hidden_size = reader.integer("hidden_size", 1, 1 << 18);
  c.n_layers = reader.integer("num_hidden_layers", 1, 10000);
  c.n_mtp_layers = reader.integer("num_nextn_predict_layers", 0, 64, 0);
  c.max_positions = reader.integer("max_position_embeddings", 1, 1 << 28);
  c.rms_norm_eps = reader.number("rms_norm_eps", 0, 1, 1e-6);
  c.tied_embeddings = reader.flag("tie_word_embeddings", false);
  c.tokenizer = reader.text("tokenizer", "");
  if (!c.tokenizer.empty() && c.tokenizer != "bytes")
    reader.refuse("tokenizer", fmt::format("is '{}'; supported: bytes", c.tokenizer));
  if (c.tokenizer == "bytes" && c.vocab_size != 256)
    reader.refuse("vocab_size", fmt::format("is {}, but the byte tokenizer has 256 tokens", c.vocab_size));
  c.eos_tokens = read_eos(reader, c.vocab_size);
  read_attention(reader, c);
  c.yarn = read_yarn(reader, source);
  read_experts(reader, c, type == "deepseek_v2");
  bool any_dense = false;
  for (int layer = 0; layer < c.n_layers; ++layer) any_dense = any_dense || !c.is_moe_layer(layer);
  c.intermediate_size = any_dense ? reader.integer("intermediate_size", 1, largest_size) : 0;
  return c;
}

}  // namespace supernode::moe
