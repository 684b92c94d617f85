#include "moe/parameter_count.hpp"

#include <algorithm>
#include <numeric>

#include "runtime/core/element_type.hpp"

namespace supernode::moe {

std::string_view name_of(ModelPart part) {
  switch (part) {
    case ModelPart::attention:
      return "attention";
    case ModelPart::dense_layers:
      return "dense_layers";
    case ModelPart::embedding_and_head:
      return "embedding_and_head";
    case ModelPart::experts:
      return "experts";
    case ModelPart::gate:
      return "gate";
    case ModelPart::norms_and_other:
      return "norms_and_other";
    case ModelPart::shared_experts:
      return "shared_experts";
  }
  return "";
}

ModelPart part_of_tensor(std::string_view name) {
  const auto has = [&](std::string_view text) { return name.find(text) != std::string_view::npos; };
  if (has(".shared_experts.")) return ModelPart::shared_experts;
  if (has(".experts.")) return ModelPart::experts;
  if (has(".self_attn.")) return ModelPart::attention;
  if (has("embed_tokens") || has("head.")) return ModelPart::embedding_and_head;
  if (has(".mlp.gate.")) return ModelPart::gate;
  if (has(".mlp.")) return ModelPart::dense_layers;
  return ModelPart::norms_and_other;
}

double bytes_per_parameter(ModelPart part, ComputeType type) {
  if (part == ModelPart::gate || part == ModelPart::norms_and_other) return 4;
  return static_cast<double>(element_bytes(part == ModelPart::embedding_and_head ? at_least_bf16(type) : type));
}

double ParameterCount::total() const { return std::accumulate(by_part.begin(), by_part.end(), 0.0); }

double ParameterCount::bytes(ComputeType type, double share_of_experts) const {
  double sum = 0;
  for (const ModelPart part : all_model_parts)
    sum += (*this)[part] * bytes_per_parameter(part, type) * (part == ModelPart::experts ? share_of_experts : 1);
  return sum;
}

ParameterCount count_parameters(const ModelConfig& c) {
  const double h = c.hidden_size, up = c.nope_dim + c.v_dim;
  const double q_width = static_cast<double>(c.n_heads) * c.qk_dim();
  const double queries = c.q_lora_rank > 0 ? c.q_lora_rank * (h + q_width + 1) : h * q_width;  // with the norm's
  ParameterCount count;
  count[ModelPart::embedding_and_head] = (c.tied_embeddings ? 1 : 2) * static_cast<double>(c.vocab_size) * h;
  count[ModelPart::norms_and_other] = h;
  for (int layer = 0; layer < c.n_layers; ++layer) {
    count[ModelPart::attention] += queries + h * c.kv_width() + c.kv_lora_rank * (1 + c.n_heads * up) +
                                   static_cast<double>(c.n_heads) * c.v_dim * h;
    count[ModelPart::norms_and_other] += 2 * h;
    if (!c.is_moe_layer(layer)) {
      count[ModelPart::dense_layers] += 3 * h * c.intermediate_size;
      continue;
    }
    const double expert = 3 * h * c.moe_intermediate_size;
    count[ModelPart::experts] += expert * c.n_routed_experts;
    count[ModelPart::shared_experts] += expert * c.n_shared_experts;
    count[ModelPart::gate] += (h + (c.method == GateMethod::noaux_tc ? 1 : 0)) * c.n_routed_experts;
  }
  return count;
}

}  // namespace supernode::moe
