#include "moe/model_config.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "moe/checkpoint/config_keys.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
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
    read_.insert(key);
    return peek(key);
  }
  /// The same of a key that will be checked as an unread one.
  const Json* peek(const std::string& key) const {
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

  /// The keys that were asked for.
  const std::set<std::string, std::less<>>& read() const { return read_; }
  void mark_read(std::initializer_list<const char*> keys) const { read_.insert(keys.begin(), keys.end()); }

  static std::string show(const Json& value) {
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    return text;
  }

 private:
  const Json& object_;
  std::string source_, prefix_;
  mutable std::set<std::string, std::less<>> read_;
};

/// The rotary settings that one of their places gives.
struct RopeSettings {
  std::string place;  ///< "rope_scaling", "rope_parameters", or "" for the top level
  std::optional<double> theta;
  std::optional<YarnConfig> yarn;
};

/// What transformers' YaRN scales cosines and sines with, if config.json says nothing of it.
double attention_factor(const YarnConfig& yarn) {
  const auto scale = [&](double mscale) { return yarn.factor <= 1 ? 1 : 0.1 * mscale * std::log(yarn.factor) + 1; };
  return scale(yarn.mscale) / scale(yarn.mscale_all_dim);
}

/// "default" or "yarn". The two spellings of the key must agree.
std::string rope_type(const Reader& inner) {
  const std::string type = inner.text("type", ""), newer = inner.text("rope_type", type);
  if (!type.empty() && newer != type) inner.refuse("rope_type", fmt::format("is '{}', but type is '{}'", newer, type));
  if (newer == "yarn" || newer == "default") return newer;
  // Newer files may hold nothing but the base.
  if (newer.empty() && !inner.find("factor")) return "default";
  inner.refuse(inner.find("rope_type") ? "rope_type" : "type", fmt::format("is '{}'; supported: yarn, default", newer));
}

YarnConfig read_yarn(const Reader& reader, const Reader& inner) {
  YarnConfig yarn;
  yarn.factor = inner.number("factor", 1, 1e6, 1);
  // Some files have it beside the other positions.
  const bool outside = !inner.find("original_max_position_embeddings");
  const Reader& holder = outside && reader.find("original_max_position_embeddings") ? reader : inner;
  yarn.original_max_positions = holder.integer("original_max_position_embeddings", 1, largest_size);
  if (!outside && reader.integer("original_max_position_embeddings", 1, largest_size, yarn.original_max_positions) !=
                      yarn.original_max_positions)
    reader.refuse("original_max_position_embeddings", "and that of the rotary settings differ");
  yarn.beta_fast = inner.number("beta_fast", 1e-3, 1e6, 32);
  yarn.beta_slow = inner.number("beta_slow", 1e-3, 1e6, 1);
  yarn.mscale = inner.number("mscale", 0, 100, 1);
  yarn.mscale_all_dim = inner.number("mscale_all_dim", 0, 100, 0);
  const double computed = attention_factor(yarn);
  if (const double given = inner.number("attention_factor", 0, 1e6, computed); std::abs(given - computed) > 1e-6)
    inner.refuse("attention_factor", fmt::format("is {}, but factor and mscale give {}", given, computed));
  if (!inner.flag("truncate", true)) inner.refuse("truncate", "is false, but this program computes with true");
  return yarn;
}

/// The settings under `key`, which stands twice in the history of the format. Nothing when it is not there.
std::optional<RopeSettings> read_rope_object(const Reader& reader, const std::string& source, const std::string& key) {
  const Json* object = reader.find(key);
  if (!object || (object->is_object() && object->empty())) return {};
  if (!object->is_object()) reader.refuse(key, "is not an object");
  const Reader inner(*object, source, key + ".");
  RopeSettings settings{key, {}, {}};
  if (inner.find("rope_theta")) settings.theta = inner.number("rope_theta", 1, 1e12, 0);
  if (inner.number("partial_rotary_factor", 0, 1, 1) != 1)
    inner.refuse("partial_rotary_factor", "is not 1: here all of qk_rope_head_dim is rotated");
  if (rope_type(inner) == "yarn") settings.yarn = read_yarn(reader, inner);
  static const std::set<std::string_view> known{
      "type",      "rope_type", "rope_theta", "partial_rotary_factor", "factor",   "original_max_position_embeddings",
      "beta_fast", "beta_slow", "mscale",     "mscale_all_dim",        "truncate", "attention_factor"};
  for (const auto& [name, value] : object->items())
    if (!known.contains(name) && !value.is_null())
      inner.refuse(name, fmt::format("is {}, and unknown", Reader::show(value)));
  return settings;
}

/// The base and YaRN, from the three places where files have them. Where several say something, they must agree.
void read_rope(const Reader& reader, const std::string& source, ModelConfig& c) {
  const auto older = read_rope_object(reader, source, "rope_scaling"),
             newer = read_rope_object(reader, source, "rope_parameters");
  if (older && newer && older->yarn != newer->yarn)
    reader.refuse("rope_parameters", "and 'rope_scaling' give different settings");
  if (const auto& settings = newer ? newer : older) c.yarn = settings->yarn;
  std::optional<double> theta;
  if (reader.find("rope_theta")) theta = reader.number("rope_theta", 1, 1e12, 0);
  for (const auto* settings : {&older, &newer}) {
    if (!*settings || !(*settings)->theta) continue;
    if (theta && *theta != (*settings)->theta)
      reader.refuse((*settings)->place + ".rope_theta",
                    fmt::format("is {}, but it is {} elsewhere in the file", *(*settings)->theta, *theta));
    theta = (*settings)->theta;
  }
  c.rope_theta = theta.value_or(10000);
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

/// The class that the model was saved from, if the file names one: it must compute what `type` does.
void check_architectures(const Reader& reader, const std::string& type) {
  const Json* names = reader.find("architectures");
  if (!names) return;
  if (!names->is_array()) reader.refuse("architectures", fmt::format("is {}, not a list", Reader::show(*names)));
  const std::string expected = type == "deepseek_v2" ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM";
  for (const Json& name : *names)
    if (name != expected && !(type == "kimi_k2" && name == "KimiK2ForCausalLM"))
      reader.refuse("architectures",
                    fmt::format("holds {}, but model_type '{}' is computed as {}", Reader::show(name), type, expected));
}

void read_attention(const Reader& reader, ModelConfig& c) {
  c.n_heads = reader.integer("num_attention_heads", 1, 1 << 12);
  c.q_lora_rank = reader.integer("q_lora_rank", 0, 1 << 16, 0);
  c.kv_lora_rank = reader.integer("kv_lora_rank", 1, 1 << 16);
  c.nope_dim = reader.integer("qk_nope_head_dim", 1, 1 << 14);
  c.rope_dim = reader.integer("qk_rope_head_dim", 2, 1 << 14);
  c.v_dim = reader.integer("v_head_dim", 1, 1 << 14);
  if (c.rope_dim % 2 != 0) reader.refuse("qk_rope_head_dim", fmt::format("is {}, not even", c.rope_dim));
}

/// Newer files list the layers' kinds; what else the list says is checked with the unread keys.
int leading_dense_layers(const Reader& reader) {
  const Json* types = reader.peek("mlp_layer_types");
  if (!types || !types->is_array()) return 0;
  return static_cast<int>(std::find_if(types->begin(), types->end(), [](const Json& type) { return type != "dense"; }) -
                          types->begin());
}

void read_experts(const Reader& reader, ModelConfig& c, bool v2) {
  constexpr std::array scorings{std::pair{std::string_view("sigmoid"), GateScoring::sigmoid},
                                std::pair{std::string_view("softmax"), GateScoring::softmax}};
  constexpr std::array methods{std::pair{std::string_view("noaux_tc"), GateMethod::noaux_tc},
                               std::pair{std::string_view("greedy"), GateMethod::greedy},
                               std::pair{std::string_view("group_limited_greedy"), GateMethod::group_limited_greedy}};
  // Not all of them are asked for: what a dense or greedy model leaves out has no meaning.
  reader.mark_read({"n_shared_experts", "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace",
                    "moe_layer_freq", "scoring_func", "topk_method", "norm_topk_prob", "routed_scaling_factor",
                    "n_group", "topk_group", "intermediate_size", "original_max_position_embeddings"});
  c.n_routed_experts = reader.integer("n_routed_experts", 0, 1 << 16, 0);
  if (c.n_routed_experts == 0) return;
  c.n_shared_experts = reader.integer("n_shared_experts", 0, 1 << 10, 0);
  c.topk = reader.integer("num_experts_per_tok", 1, c.n_routed_experts);
  c.moe_intermediate_size = reader.integer("moe_intermediate_size", 1, largest_size);
  c.first_dense_layers = reader.integer("first_k_dense_replace", 0, largest_size, leading_dense_layers(reader));
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
  check_architectures(reader, type);
  if (const std::string act = reader.text("hidden_act", "silu"); act != "silu" && act != "swish")
    reader.refuse("hidden_act", fmt::format("is '{}'; supported: silu", act));

  ModelConfig c;
  for (const char* key : {"quantization_config", "compression_config"}) {
    const Json* quantised = reader.find(key);
    if (quantised && c.quantization_key.empty()) c.quantization_key = key;
  }
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
  read_rope(reader, source, c);
  read_experts(reader, c, type == "deepseek_v2");
  bool any_dense = false;
  for (int layer = 0; layer < c.n_layers; ++layer) any_dense = any_dense || !c.is_moe_layer(layer);
  c.intermediate_size = any_dense ? reader.integer("intermediate_size", 1, largest_size) : 0;
  check_unread_keys(json, c, reader.read(),
                    [&](const std::string& key, const std::string& why) { reader.refuse(key, why); });
  return c;
}

ModelConfig load_model_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  return parse_model_config(read_file(path), path);
}

}  // namespace supernode::moe
