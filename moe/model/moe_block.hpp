#pragma once
// The mixture-of-experts block of one layer: gate, this rank's routed experts, shared experts.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "collectives/token_exchange.hpp"
#include "moe/checkpoint.hpp"
#include "moe/model/placed_experts.hpp"
#include "moe/operators/feed_forward.hpp"
#include "moe/operators/gate.hpp"
#include "moe/products/gemm.hpp"
#include "runtime/core/buffer.hpp"

namespace supernode::moe {

/// Buffers of the blocks of a model, allocated once from the worst case: all ranks send all their tokens here.
struct MoeScratch {
  MoeScratch(const ModelConfig& config, int max_tokens, int n_ranks);

  Gate gate;
  HugePageBuffer<float> gate_logits;            ///< [max_tokens, experts]
  HugePageBuffer<std::int32_t> expert_ids;      ///< [max_tokens, topk]
  HugePageBuffer<std::int32_t> expert_slots;    ///< [max_tokens, topk] where those experts are
  HugePageBuffer<float> expert_weights;         ///< [max_tokens, topk]
  HugePageBuffer<float> sums;                   ///< [ranks * max_tokens, hidden]
  HugePageBuffer<float> expert_in, expert_out;  ///< [block_rows, hidden]
  HugePageBuffer<std::int8_t> quantised_in;     ///< [block_rows, hidden] rows as they came, with
  HugePageBuffer<float> row_scales;             ///< [block_rows]
  HugePageBuffer<float> shared_out;             ///< [max_tokens, hidden]
};

class MoeBlock {
 public:
  /// Reads the gate (always f32), the shared experts and the routed experts [first, first + count) below `prefix`.
  /// @throws UsageError as Checkpoint::read.
  MoeBlock(Checkpoint& checkpoint, const std::string& prefix, int first_expert, int n_experts, ComputeType type,
           Gemm& gemm);

  /// Makes what products need for up to `rows` own tokens.
  void prepare(int rows, Gemm& gemm) const;

  /// From now on a token goes to the best `count` of its experts only, with the weights that they have. 0: to all.
  void use_best(int count) { used_ = count == 0 ? topk_ : std::min(count, topk_); }

  /// Fills scratch.expert_ids, best first, .expert_slots and .expert_weights for x [rows, hidden]; an expert that is not
  /// used is -1.
  void route(const float* x, int rows, Gemm& gemm, MoeScratch& scratch) const;
  /// Fills scratch.sums: for each received row the weighted sum over this rank's experts, in the order of its slots.
  void run_experts(const collectives::DispatchedTokens& tokens, Gemm& gemm, FeedForwardScratch& ff,
                   MoeScratch& scratch) const;
  PlacedExperts& experts() { return experts_; }
  const PlacedExperts& experts() const { return experts_; }
  /// out [rows, hidden] += shared experts of x
  void add_shared(const float* x, int rows, Gemm& gemm, FeedForwardScratch& ff, MoeScratch& scratch, float* out) const;

 private:
  /// The expert's output for the received rows `rows`, at most block_rows, into scratch.expert_out.
  /// @param next the unit that comes after it; may be null
  void run_expert(const FeedForward& expert, const FeedForward* next, const collectives::DispatchedTokens& tokens,
                  std::span<const std::int32_t> rows, Gemm& gemm, FeedForwardScratch& ff, MoeScratch& scratch) const;

  int hidden_, n_experts_, topk_;
  int used_;  ///< of the topk_
  PackedMatrix gate_;
  std::vector<float> bias_;  ///< [experts], or empty
  PlacedExperts experts_;
  std::unique_ptr<FeedForward> shared_;  ///< all shared experts as one unit; null without
};

}  // namespace supernode::moe
