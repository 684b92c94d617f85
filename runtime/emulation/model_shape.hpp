#pragma once
// The sizes of a model that decide what it costs.

#include <string>

namespace supernode::emulation {

/// Sizes of a DeepSeek-V3-architecture model; names as in the papers, counts of elements.
struct ModelShape {
  std::string name;
  int layers = 0;  ///< of which the first `dense_layers` have a dense FFN
  int dense_layers = 0;
  int mtp_layers = 0;  ///< speculative layers behind the last
  double hidden = 0;
  double dense_ffn = 0;
  double expert_ffn = 0;
  int experts = 0;
  int shared_experts = 0;
  int topk = 0;
  double heads = 0;
  double q_lora = 0;  ///< 0: queries are projected in one step
  double kv_lora = 0;
  double rope = 0, nope = 0, value = 0;  ///< per head
  double vocabulary = 0;

  double latent() const { return kv_lora + rope; }            ///< cached values of a token and layer
  double kv_bytes_per_layer() const { return 2 * latent(); }  ///< bf16
  double kv_bytes_per_token() const { return layers * kv_bytes_per_layer(); }
  double expert_weights() const { return 3 * hidden * expert_ffn; }
  double attention_weights() const;  ///< of a layer
  double weights() const;            ///< of the whole model, MTP layers apart
};

}  // namespace supernode::emulation
