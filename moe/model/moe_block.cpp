#include "moe/model/moe_block.hpp"

#include <algorithm>
#include <cstring>

#include "moe/products/kernels.hpp"

namespace supernode::moe {
MoeScratch::MoeScratch(const ModelConfig& c, int max_tokens, int n_ranks)
    : gate(c),
      gate_logits(product(max_tokens, c.n_routed_experts)),
      expert_ids(product(max_tokens, c.topk)),
      expert_slots(product(max_tokens, c.topk)),
      expert_weights(product(max_tokens, c.topk)),
      sums(product(max_tokens, n_ranks) * static_cast<std::size_t>(c.hidden_size)),
      expert_in(product(FeedForwardScratch::block_rows, c.hidden_size)),
      expert_out(expert_in.size()),
      quantised_in(expert_in.size()),
      row_scales(FeedForwardScratch::block_rows),
      shared_out(product(max_tokens, c.hidden_size)) {}

MoeBlock::MoeBlock(Checkpoint& checkpoint, const std::string& prefix, int first_expert, int n_experts, ComputeType type,
                   Gemm& gemm)
    : hidden_(checkpoint.config().hidden_size),
      n_experts_(checkpoint.config().n_routed_experts),
      topk_(checkpoint.config().topk),
      used_(topk_),
      gate_(gemm.pack(checkpoint.read(prefix + "gate.weight", {n_experts_, hidden_}), n_experts_, hidden_,
                      ComputeType::f32)),
      experts_(checkpoint, prefix, first_expert, n_experts, type, gemm) {
  const ModelConfig& c = checkpoint.config();
  if (c.method == GateMethod::noaux_tc) bias_ = checkpoint.read(prefix + "gate.e_score_correction_bias", {n_experts_});
  if (c.n_shared_experts > 0)
    shared_ = std::make_unique<FeedForward>(checkpoint, prefix + "shared_experts.",
                                            c.moe_intermediate_size * c.n_shared_experts, type, gemm);
}

void MoeBlock::route(const float* x, int rows, Gemm& gemm, MoeScratch& scratch) const {
  gemm.multiply(gate_, x, rows, scratch.gate_logits.data());
  const auto experts = static_cast<std::size_t>(n_experts_), topk = static_cast<std::size_t>(topk_);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
    const auto ids = scratch.expert_ids.span().subspan(r * topk, topk);
    scratch.gate.select(scratch.gate_logits.span().subspan(r * experts, experts), bias_, ids,
                        scratch.expert_weights.span().subspan(r * topk, topk));
    std::fill(ids.begin() + used_, ids.end(), -1);
  }
  experts_.find_slots(scratch.expert_ids.span().first(static_cast<std::size_t>(rows) * topk),
                      scratch.expert_slots.data());
}

void MoeBlock::prepare(int rows, Gemm& gemm) const {
  gemm.prepare(gate_, rows);
  // Other ranks' tokens come too: an expert's blocks have any size. All experts have the same shape.
  if (experts_.slots() > 0) experts_.in_slot(0).prepare(FeedForwardScratch::block_rows, gemm);
  if (shared_) shared_->prepare(rows, gemm);
}

void MoeBlock::run_expert(const FeedForward& expert, const FeedForward* next,
                          const collectives::DispatchedTokens& tokens, std::span<const std::int32_t> rows, Gemm& gemm,
                          FeedForwardScratch& ff, MoeScratch& scratch) const {
  const auto width = static_cast<std::size_t>(hidden_);
  const int count = static_cast<int>(rows.size());
  if (tokens.payload() == collectives::Payload::int8) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(scratch.quantised_in.data() + i * width, tokens.row_int8(rows[i]).data(), width);
      scratch.row_scales[i] = tokens.row_scale(rows[i]);
    }
    expert.forward_quantised(scratch.quantised_in.data(), scratch.row_scales.data(), count, gemm, ff,
                             scratch.expert_out.data());
  } else {
    for (std::size_t i = 0; i < rows.size(); ++i)
      tokens.copy_row_f32(rows[i], scratch.expert_in.span().subspan(i * width, width));
    expert.forward(scratch.expert_in.data(), count, gemm, ff, scratch.expert_out.data(), next);
  }
}

void MoeBlock::run_experts(const collectives::DispatchedTokens& tokens, Gemm& gemm, FeedForwardScratch& ff,
                           MoeScratch& scratch) const {
  const auto width = static_cast<std::size_t>(hidden_);
  std::fill_n(scratch.sums.data(), static_cast<std::size_t>(tokens.n_rows()) * width, 0.0f);
  const int n = tokens.n_local_experts();
  const auto next_used = [&](int e) {
    while (e < n && tokens.expert_rows(e).empty()) ++e;
    return e;
  };
  for (int e = next_used(0), next = e; e < n; e = next) {
    next = next_used(e + 1);
    const FeedForward* const after = next < n ? &experts_.in_slot(next) : shared_.get();
    const auto rows = tokens.expert_rows(e);
    const auto weights = tokens.expert_weights(e);
    for (std::size_t first = 0; first < rows.size(); first += FeedForwardScratch::block_rows) {
      const std::size_t count = std::min(rows.size() - first, std::size_t{FeedForwardScratch::block_rows});
      run_expert(experts_.in_slot(e), after, tokens, rows.subspan(first, count), gemm, ff, scratch);
      for (std::size_t i = 0; i < count; ++i)
        add_scaled(weights[first + i], scratch.expert_out.data() + i * width, width,
                   scratch.sums.data() + static_cast<std::size_t>(rows[first + i]) * width);
    }
  }
}

void MoeBlock::add_shared(const float* x, int rows, Gemm& gemm, FeedForwardScratch& ff, MoeScratch& scratch,
                          float* out) const {
  if (!shared_ || rows == 0) return;
  shared_->forward(x, rows, gemm, ff, scratch.shared_out.data());
  add(scratch.shared_out.data(), static_cast<std::size_t>(rows) * static_cast<std::size_t>(hidden_), out);
}

}  // namespace supernode::moe
