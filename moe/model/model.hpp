#pragma once
// What is behind Transformer: a model's weights, its buffers and the arithmetic of a step.

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "collectives/token_exchange.hpp"
#include "moe/model/layer.hpp"
#include "moe/operators/step_plan.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/clock.hpp"

namespace supernode::moe {

/// All of a Transformer but what its ranks agree on: weights, buffers, and the work of a step.
struct Model {
  /// Without communicator and exchange. @throws UsageError as Checkpoint::read.
  Model(Checkpoint& checkpoint, const TransformerOptions& o, const ExpertRange& mine);

  /// Makes the kernels and buffers that steps need, so that none is made later.
  void prepare();
  /// All slices of a step of the main model, or with `drafts` (as many as chunks) of the MTP module.
  StepResult run(std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts, bool draft);
  /// Lays out the slice's rows in the caches and fills `hidden` with embedded tokens.
  int begin_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks, const TokenEmbedding& rows_of);
  /// The MTP module's input from `hidden`, which holds embedded tokens, and the chunks' hidden rows.
  void join(const StepPlan::Slice& slice, std::span<const DraftChunk> drafts, int rows);
  /// A layer's first half: all rows normalised and in the caches, which need nothing else of a row without logits.
  void remember(Layer& layer, int cache_layer, int rows);
  /// Drops the rows of a draft that need no logits, between the halves. Returns how many are left.
  int drop_silent_rows(const StepPlan::Slice& slice, int rows);
  /// A layer's second half: attention and feed forward.
  void finish_layer(Layer& layer, int cache_layer, int rows);
  void run_feed_forward(Layer& layer, int rows);
  void trace(const Layer& layer, int index, int rows);
  void normalise(const float* from, const std::vector<float>& weight, int rows, float* to) const;
  /// @param silent_dropped by drop_silent_rows()
  void write_logits(const StepPlan::Slice& slice, bool silent_dropped, const std::vector<float>& norm,
                    const PackedMatrix& product_of_head);

  /// Adds the time since the last lap to `part`.
  void lap(double& part) {
    const double now = wall_now().value;
    part += now - lap_start;
    lap_start = now;
  }

  TransformerOptions options;
  ModelConfig config;
  Communicator comm;  ///< and the exchange: set when all ranks have read their weights
  Gemm gemm;
  Rope rope;
  TokenEmbedding embedding;
  std::vector<float> final_norm;
  PackedMatrix head;
  std::vector<Layer> layers;
  std::unique_ptr<MtpModule> mtp;                        ///< null: not there or not wanted
  std::unique_ptr<collectives::TokenExchange> exchange;  ///< null for a model without routed experts

  AttentionScratch attention_scratch;
  FeedForwardScratch feed_forward_scratch;
  std::unique_ptr<MoeScratch> moe_scratch;
  HugePageBuffer<float> hidden, normed, update;  ///< [max_batch_tokens, hidden_size]
  HugePageBuffer<float> logits;                  ///< grows with the rows asked for
  HugePageBuffer<float> all_hidden;              ///< with an MTP module: [tokens of a step, hidden_size]
  HugePageBuffer<float> joined;                  ///< with an MTP module: [max_batch_tokens, 2 hidden_size]
  std::vector<SequenceChunk> draft_chunks;
  StepPlan plan;
  int agreed_slices = 0;        ///< of the last forward(); 0: no rank had tokens
  bool agreed_guesses = false;  ///< some rank wants a draft() after it
  std::vector<AttentionSpan> spans;
  StepStatistics statistics;
  double lap_start = 0;
  std::function<void(const LayerTrace&)> observer;
};

}  // namespace supernode::moe
