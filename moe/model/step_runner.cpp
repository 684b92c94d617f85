#include "moe/model/step_runner.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "moe/products/kernels.hpp"

namespace supernode::moe {

StepRunner::StepRunner(Checkpoint& checkpoint, const TransformerOptions& options, const ExpertRange& mine, int n_ranks)
    : options_(options),
      gemm_(options.threads),
      weights_(checkpoint, options, mine, gemm_),
      activations_(weights_.config, options.max_batch_tokens, n_ranks) {
  if (weights_.mtp) joined_ = HugePageBuffer<float>(2 * activations_.hidden.size());
  weights_.prepare(options.max_batch_tokens, gemm_);
}

void StepRunner::record_routing(RoutingRecord record) {
  routed_rows_.clear();
  if (record == RoutingRecord::none) return;
  const auto moe_layers =
      std::ranges::count_if(weights_.layers, [](const Layer& layer) { return layer.experts != nullptr; });
  routed_rows_.resize(product(static_cast<int>(moe_layers), config().n_routed_experts));
}

int StepRunner::plan(std::span<const SequenceChunk> chunks) {
  plan_.build(chunks, options_.max_batch_tokens);
  return static_cast<int>(plan_.slices().size());
}

LayerPass StepRunner::make_pass() {
  return {weights_.config, weights_.rope, options_.attention, gemm_, exchange_.get(), clock_, activations_};
}

void StepRunner::run_layer(LayerPass& pass, int index) {
  const Layer& layer = weights_.layers[static_cast<std::size_t>(index)];
  pass.attention(layer, index);
  pass.send(layer);
  pass.experts(layer);
  pass.receive(layer);
  if (observer_ && activations_.rows > 0) trace(index);
}

StepResult StepRunner::run_main(std::span<const SequenceChunk> chunks, int slices) {
  const auto width = static_cast<std::size_t>(config().hidden_size);
  logits_.grow(product(plan_.logit_rows(), config().vocab_size));
  std::size_t hidden_floats = 0;
  if (weights_.mtp) {
    std::size_t tokens = 0;
    for (const SequenceChunk& chunk : chunks) tokens += chunk.tokens.size();
    all_hidden_.grow(tokens * width);
  }
  std::ranges::fill(routed_rows_, 0);
  LayerPass pass = make_pass();
  for (int i = 0; i < slices; ++i) {
    const StepPlan::Slice& slice = plan_.slice(i);
    begin_slice(slice, chunks, weights_.embedding);
    for (int index = 0, moe_layer = 0; index < config().n_layers; ++index) {
      run_layer(pass, index);
      if (weights_.layers[static_cast<std::size_t>(index)].experts) count_rows(moe_layer++);
    }
    if (weights_.mtp) {
      normalise_rows(activations_.hidden.data(), weights_.final_norm, config().rms_norm_eps, activations_.rows,
                     all_hidden_.data() + hidden_floats);
      hidden_floats += product(activations_.rows, config().hidden_size);
    }
    write_logits(slice, Rows::all, weights_.final_norm, weights_.head);
  }
  return result(hidden_floats, slices);
}

StepResult StepRunner::run_draft(std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts,
                                 int slices) {
  const MtpModule& module = *weights_.mtp;
  logits_.grow(product(plan_.logit_rows(), config().vocab_size));
  LayerPass pass = make_pass();
  for (int i = 0; i < slices; ++i) {
    const StepPlan::Slice& slice = plan_.slice(i);
    begin_slice(slice, chunks, module.embedding ? *module.embedding : weights_.embedding);
    join(slice, drafts);
    pass.fill_cache(module.layer, 0);
    keep_rows_with_logits(slice);
    pass.attend(module.layer, 0);
    pass.send(module.layer);
    pass.experts(module.layer);
    pass.receive(module.layer);
    write_logits(slice, Rows::with_logits, module.final_norm, module.head ? *module.head : weights_.head);
  }
  return result(0, slices);
}

StepResult StepRunner::result(std::size_t hidden_floats, int slices) const {
  StepResult result;
  result.n_rows = plan_.logit_rows();
  result.vocab_size = config().vocab_size;
  result.logits = logits_.span().first(product(result.n_rows, result.vocab_size));
  result.hidden = all_hidden_.span().first(hidden_floats);
  result.idle = slices == 0;
  return result;
}

void StepRunner::begin_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks,
                             const TokenEmbedding& rows_of) {
  Activations& a = activations_;
  const auto width = static_cast<std::size_t>(config().hidden_size);
  const std::size_t half = static_cast<std::size_t>(weights_.rope.half());
  a.spans.clear();
  std::size_t row = 0;
  for (const StepPlan::Piece& piece : slice.pieces) {
    const SequenceChunk& chunk = chunks[static_cast<std::size_t>(piece.chunk)];
    const int start = chunk.cache->length();
    chunk.cache->extend(piece.count);
    a.spans.push_back({chunk.cache, start, piece.count, static_cast<int>(row)});
    for (int i = 0; i < piece.count; ++i, ++row) {
      rows_of.copy_row(chunk.tokens[static_cast<std::size_t>(piece.first + i)], a.hidden.data() + row * width);
      weights_.rope.angles(start + i, {a.attention.cosines.data() + row * half, half},
                           {a.attention.sines.data() + row * half, half});
    }
  }
  a.rows = static_cast<int>(row);
  clock_.statistics.tokens += a.rows;
  ++clock_.statistics.slices;
  clock_.lap(&StepStatistics::other);
}

void StepRunner::join(const StepPlan::Slice& slice, std::span<const DraftChunk> drafts) {
  const MtpModule& module = *weights_.mtp;
  const auto width = static_cast<std::size_t>(config().hidden_size);
  const auto eps = static_cast<float>(config().rms_norm_eps);
  std::size_t row = 0;
  for (const StepPlan::Piece& piece : slice.pieces) {
    const float* from = drafts[static_cast<std::size_t>(piece.chunk)].hidden.data();
    for (int i = 0; i < piece.count; ++i, ++row) {
      float* to = joined_.data() + 2 * row * width;
      rms_norm(activations_.hidden.data() + row * width, module.token_norm.data(), eps, width, to);
      rms_norm(from + static_cast<std::size_t>(piece.first + i) * width, module.hidden_norm.data(), eps, width,
               to + width);
    }
  }
  gemm_.multiply(module.join, joined_.data(), activations_.rows, activations_.hidden.data());
  clock_.lap(&StepStatistics::dense);
}

void StepRunner::keep_rows_with_logits(const StepPlan::Slice& slice) {
  Activations& a = activations_;
  int kept = 0;
  for (const StepPlan::Piece& piece : slice.pieces) kept += piece.logit_count;
  if (kept == a.rows) return;
  kept = 0;
  for (std::size_t i = 0; i < a.spans.size(); ++i) {
    AttentionSpan& span = a.spans[i];
    const int count = slice.pieces[i].logit_count, dropped = span.count - count, from = span.first_row + dropped;
    for (HugePageBuffer<float>* values : {&a.hidden, &a.normed})
      std::memmove(values->data() + product(kept, config().hidden_size),
                   values->data() + product(from, config().hidden_size),
                   product(count, config().hidden_size) * sizeof(float));
    a.attention.move_rows(from, kept, count);
    span = {span.cache, span.start + dropped, count, kept};
    kept += count;
  }
  std::erase_if(a.spans, [](const AttentionSpan& span) { return span.count == 0; });
  a.rows = kept;
  clock_.lap(&StepStatistics::attention);
}

void StepRunner::trace(int index) {
  const Activations& a = activations_;
  LayerTrace trace{index, a.rows, a.hidden.span().first(product(a.rows, config().hidden_size)), {}, {}};
  if (weights_.layers[static_cast<std::size_t>(index)].experts) {
    trace.expert_ids = a.moe->expert_ids.span().first(product(a.rows, config().topk));
    trace.expert_weights = a.moe->expert_weights.span().first(product(a.rows, config().topk));
  }
  observer_(trace);
}

void StepRunner::count_rows(int moe_layer) {
  if (routed_rows_.empty()) return;
  const std::size_t experts = static_cast<std::size_t>(config().n_routed_experts);
  const auto counts = std::span(routed_rows_).subspan(static_cast<std::size_t>(moe_layer) * experts, experts);
  for (const std::int32_t expert : activations_.moe->expert_ids.span().first(product(activations_.rows, config().topk)))
    if (expert >= 0) ++counts[static_cast<std::size_t>(expert)];
}

void StepRunner::write_logits(const StepPlan::Slice& slice, Rows there, const std::vector<float>& norm,
                              const PackedMatrix& head) {
  Activations& a = activations_;
  int row = 0, wanted = 0;
  for (const StepPlan::Piece& piece : slice.pieces) {
    row += there == Rows::all ? piece.count : piece.logit_count;
    normalise_rows(a.hidden.data() + product(row - piece.logit_count, config().hidden_size), norm,
                   config().rms_norm_eps, piece.logit_count, a.normed.data() + product(wanted, config().hidden_size));
    wanted += piece.logit_count;
  }
  // A slice's rows of logits lie together: the head is read once.
  if (wanted > 0)
    gemm_.multiply(head, a.normed.data(), wanted,
                   logits_.data() + product(slice.pieces.front().first_logit_row, config().vocab_size));
  clock_.lap(&StepStatistics::head);
}

}  // namespace supernode::moe
