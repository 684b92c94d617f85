#include "moe/model/weights.hpp"

namespace supernode::moe {
namespace {

/// The user's limit on positions replaces the model's.
ModelConfig with_limit(ModelConfig config, int max_positions) {
  if (max_positions > 0) config.max_positions = max_positions;
  return config;
}

}  // namespace

Weights::Weights(Checkpoint& checkpoint, const TransformerOptions& o, const ExpertRange& mine, Gemm& gemm)
    : config(with_limit(checkpoint.config(), o.max_positions)),
      rope(config),
      embedding(checkpoint, "model.embed_tokens.weight", o.type),
      final_norm(checkpoint.read("model.norm.weight", {config.hidden_size})),
      head(gemm.pack(checkpoint.read(config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                                     {config.vocab_size, config.hidden_size}),
                     config.vocab_size, config.hidden_size, at_least_bf16(o.type))) {
  for (int index = 0; index < config.n_layers; ++index) layers.emplace_back(checkpoint, index, mine, o.type, gemm);
  if (!o.mtp || !checkpoint.has_mtp()) return;
  mtp = std::make_unique<MtpModule>(checkpoint, mine, o.type, gemm);
  if (mtp->layer.experts) mtp->layer.experts->use_best(o.draft_experts);
  mtp->layer.attention.set_window(o.draft_window);
}

void Weights::prepare(int rows, Gemm& gemm) const {
  for (const Layer& layer : layers) layer.prepare(rows, gemm);
  gemm.prepare(head, rows);
  if (!mtp) return;
  mtp->layer.prepare(rows, gemm);
  gemm.prepare(mtp->join, rows);
  if (mtp->head) gemm.prepare(*mtp->head, rows);
}

}  // namespace supernode::moe
