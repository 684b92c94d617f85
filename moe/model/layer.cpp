#include "moe/model/layer.hpp"

#include <fmt/format.h>

namespace supernode::moe {
namespace {

std::string layer_prefix(int index) { return fmt::format("model.layers.{}.", index); }

}  // namespace

Layer::Layer(Checkpoint& checkpoint, int index, const ExpertRange& mine, ComputeType type, Gemm& gemm)
    : attention_norm(
          checkpoint.read(layer_prefix(index) + "input_layernorm.weight", {checkpoint.config().hidden_size})),
      feed_forward_norm(
          checkpoint.read(layer_prefix(index) + "post_attention_layernorm.weight", {checkpoint.config().hidden_size})),
      attention(checkpoint, layer_prefix(index) + "self_attn.", type, gemm) {
  const ModelConfig& c = checkpoint.config();
  const std::string prefix = layer_prefix(index) + "mlp.";
  if (c.is_moe_layer(index)) {
    experts = std::make_unique<MoeBlock>(checkpoint, prefix, mine.first, mine.count, type, gemm);
  } else {
    dense = std::make_unique<FeedForward>(checkpoint, prefix, c.intermediate_size, type, gemm);
  }
}

void Layer::prepare(int rows, Gemm& gemm) const {
  attention.prepare(rows, gemm);
  if (dense) dense->prepare(rows, gemm);
  if (experts) experts->prepare(rows, gemm);
}

MtpModule::MtpModule(Checkpoint& checkpoint, const ExpertRange& mine, ComputeType type, Gemm& gemm)
    : layer(checkpoint, checkpoint.config().n_layers, mine, type, gemm) {
  const ModelConfig& c = checkpoint.config();
  const std::string prefix = layer_prefix(c.n_layers);
  token_norm = checkpoint.read(prefix + "enorm.weight", {c.hidden_size});
  hidden_norm = checkpoint.read(prefix + "hnorm.weight", {c.hidden_size});
  final_norm = checkpoint.read(prefix + "shared_head.norm.weight", {c.hidden_size});
  join = gemm.pack(checkpoint.read(prefix + "eh_proj.weight", {c.hidden_size, 2 * c.hidden_size}), c.hidden_size,
                   2 * c.hidden_size, type);
  const std::string own_embedding = prefix + "embed_tokens.weight", own_head = prefix + "shared_head.head.weight";
  if (checkpoint.has(own_embedding)) embedding = std::make_unique<TokenEmbedding>(checkpoint, own_embedding, type);
  if (checkpoint.has(own_head))
    head = std::make_unique<PackedMatrix>(gemm.pack(checkpoint.read(own_head, {c.vocab_size, c.hidden_size}),
                                                    c.vocab_size, c.hidden_size, at_least_bf16(type)));
}

}  // namespace supernode::moe
