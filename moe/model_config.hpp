#pragma once
// The shape of a DeepSeek-V3 (or V2) model, from Hugging Face's config.json.

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace supernode::moe {

/// How gate logits become scores.
enum class GateScoring { sigmoid, softmax };

/// How experts are chosen from scores.
enum class GateMethod {
  greedy,                ///< the topk best scores
  group_limited_greedy,  ///< only from the topk_group best groups; a group's score is its best expert's
  noaux_tc               ///< the same with scores + correction bias; a group's score is the sum of its two best
};

/// YaRN extension of the rotary embedding (Peng et al. 2023).
struct YarnConfig {
  double factor = 1;
  int original_max_positions = 0;
  /// Rotations within the original context between which frequencies are blended.
  double beta_fast = 32, beta_slow = 1;
  double mscale = 1, mscale_all_dim = 0;

  bool operator==(const YarnConfig&) const = default;
};

/// All sizes are counts of elements. q_lora_rank 0: queries are projected directly; n_routed_experts 0: all layers
/// dense.
struct ModelConfig {
  int vocab_size = 0, hidden_size = 0;
  int n_layers = 0;           ///< num_hidden_layers, without MTP modules
  int n_mtp_layers = 0;       ///< num_nextn_predict_layers
  int max_positions = 0;      ///< max_position_embeddings
  int intermediate_size = 0;  ///< of dense layers
  double rms_norm_eps = 1e-6;
  bool tied_embeddings = false;  ///< the head is the embedding
  std::string tokenizer;         ///< "bytes", or empty: token ids only
  std::vector<int> eos_tokens;   ///< each ends a text; may be empty
  /// "quantization_config" or the like, if the file has it: whether the weights still are quantised, their types say.
  std::string quantization_key;

  // Multi-head latent attention
  int n_heads = 0, q_lora_rank = 0, kv_lora_rank = 0, nope_dim = 0, rope_dim = 0, v_dim = 0;
  double rope_theta = 10000;
  std::optional<YarnConfig> yarn;

  // Experts
  int n_routed_experts = 0, n_shared_experts = 0, topk = 0, moe_intermediate_size = 0;
  int first_dense_layers = 0;  ///< first_k_dense_replace
  int moe_layer_freq = 1;
  int n_groups = 1, topk_groups = 1;
  GateScoring scoring = GateScoring::sigmoid;
  GateMethod method = GateMethod::noaux_tc;
  bool normalise_weights = true;  ///< norm_topk_prob
  double routed_scaling = 1;

  int qk_dim() const { return nope_dim + rope_dim; }
  int kv_width() const { return kv_lora_rank + rope_dim; }  ///< cached values per layer and token
  bool is_end(int token) const { return std::find(eos_tokens.begin(), eos_tokens.end(), token) != eos_tokens.end(); }
  bool is_moe_layer(int layer) const {
    return n_routed_experts > 0 && layer >= first_dense_layers && layer % moe_layer_freq == 0;
  }
};

/// @param text the JSON document; @param source its path, for messages.
/// @throws UsageError "<source>: '<key>' ..." for a missing key, a wrong type, a value out of range or contradictory,
/// and for what is not supported (another architecture, activation or RoPE scaling), also where it is asked for by a
/// key that is unknown here (checkpoint/config_keys.hpp).
ModelConfig parse_model_config(std::string_view text, const std::string& source);

/// config.json in a model's directory. @throws UsageError as parse_model_config(), and when there is none
ModelConfig load_model_config(const std::string& directory);

}  // namespace supernode::moe
