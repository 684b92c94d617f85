#include "runtime/emulation/model_shape.hpp"

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

}  // namespace supernode::emulation
