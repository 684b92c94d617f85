#include "moe/internal/layer.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "collectives/quantise.hpp"

namespace supernode::moe {
namespace {

using collectives::Payload;

std::string layer_prefix(int index) { return fmt::format("model.layers.{}.", index); }

}  // namespace

TokenEmbedding::TokenEmbedding(Checkpoint& checkpoint, const std::string& name, ComputeType type)
    : width_(static_cast<std::size_t>(checkpoint.config().hidden_size)),
      values_(checkpoint.read(name, {checkpoint.config().vocab_size, checkpoint.config().hidden_size})) {
  const bool exact = std::all_of(values_.begin(), values_.end(),
                                 [](float value) { return (std::bit_cast<std::uint32_t>(value) & 0xffffu) == 0; });
  if (type == ComputeType::f32 && !exact) return;
  halves_.resize(values_.size());
  std::byte* const to = reinterpret_cast<std::byte*>(halves_.data());
  collectives::write_row(Payload::bf16, values_, {}, {&to, 1});
  values_ = {};
}

void TokenEmbedding::copy_row(std::int32_t token, float* out) const {
  const std::size_t first = static_cast<std::size_t>(token) * width_;
  if (halves_.empty()) {
    std::memcpy(out, values_.data() + first, width_ * sizeof(float));
  } else {
    collectives::read_row(Payload::bf16, reinterpret_cast<const std::byte*>(halves_.data() + first), 1, {out, width_});
  }
}

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
