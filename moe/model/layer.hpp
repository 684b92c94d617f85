#pragma once
// What a model is made of: layers, and the module that guesses the token after next.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moe/checkpoint.hpp"
#include "moe/model/moe_block.hpp"
#include "moe/operators/attention.hpp"
#include "moe/operators/feed_forward.hpp"
#include "moe/operators/token_embedding.hpp"
#include "moe/products/gemm.hpp"

namespace supernode::moe {

/// Routed experts [first, first + count).
struct ExpertRange {
  int first = 0, count = 0;
};

/// One of the model's layers: normalise, attend, add; normalise, feed forward, add.
struct Layer {
  /// Reads layer `index` with this rank's experts. @throws UsageError as Checkpoint::read.
  Layer(Checkpoint& checkpoint, int index, const ExpertRange& mine, ComputeType type, Gemm& gemm);
  /// Makes what products of up to `rows` rows need.
  void prepare(int rows, Gemm& gemm) const;

  std::vector<float> attention_norm, feed_forward_norm;
  Attention attention;
  std::unique_ptr<FeedForward> dense;  ///< this or
  std::unique_ptr<MoeBlock> experts;   ///< that
};

/// The multi-token prediction module: from the hidden row of position i and token i + 1 to the logits of token i + 2.
struct MtpModule {
  /// Reads layer n_layers of the checkpoint. @throws UsageError as Checkpoint::read.
  MtpModule(Checkpoint& checkpoint, const ExpertRange& mine, ComputeType type, Gemm& gemm);

  std::vector<float> token_norm, hidden_norm, final_norm;  ///< enorm, hnorm, shared_head.norm
  PackedMatrix join;                                       ///< eh_proj [hidden, 2 hidden]
  Layer layer;
  std::unique_ptr<TokenEmbedding> embedding;  ///< null: the main model's
  std::unique_ptr<PackedMatrix> head;         ///< null: the main model's
};

}  // namespace supernode::moe
