#include "moe/model/step_runner.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "moe/products/kernels.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {

StepRunner::StepRunner(Checkpoint& checkpoint, const TransformerOptions& options, const ExpertRange& mine, int n_ranks)
    : options_(options),
      gemm_(options.threads),
      weights_(checkpoint, options, mine, gemm_),
      // Of two microbatches that all ranks share, each may deal this rank one token more than its part.
      head_in_(product(options.max_batch_tokens + 1, weights_.config.hidden_size)) {
  const int most = StepPlan::most_rows(options.max_batch_tokens, options.microbatches);
  for (int i = 0; i < options.microbatches; ++i)
    microbatches_.push_back(std::make_unique<Microbatch>(weights_.config, most, n_ranks));
  if (weights_.mtp) joined_ = HugePageBuffer<float>(product(2 * most, weights_.config.hidden_size));
  weights_.prepare(options.max_batch_tokens, gemm_);
}

void StepRunner::set_sharing(const Communicator& comm) {
  ranks_ = {comm.size(), comm.rank()};
  heads_ = std::make_unique<HeadExchange>(comm, config(), options_.deadline);
}

void StepRunner::record_routing(RoutingRecord record) {
  routed_rows_.clear();
  drafted_rows_.clear();
  if (record == RoutingRecord::none) return;
  const auto moe_layers =
      std::ranges::count_if(weights_.layers, [](const Layer& layer) { return layer.experts != nullptr; });
  routed_rows_.resize(microbatches_.size() * product(static_cast<int>(moe_layers), config().n_routed_experts));
  drafted_rows_.resize(microbatches_.size() * static_cast<std::size_t>(config().n_routed_experts));
}

ExpertPlaces StepRunner::expert_places() {
  std::vector<MoeBlock*> layers;
  for (Layer& layer : weights_.layers)
    if (layer.experts) layers.push_back(layer.experts.get());
  if (weights_.mtp && weights_.mtp->layer.experts) layers.push_back(weights_.mtp->layer.experts.get());
  return {std::move(layers), gemm_};
}

std::vector<ChunkPiece> StepRunner::pieces(int microbatch) const {
  std::vector<ChunkPiece> all;
  for (const StepPlan::Slice& slice : plan_.slices())
    for (const StepPlan::Piece& piece : slice.microbatch(microbatch))
      all.push_back({piece.chunk, piece.first, piece.count, piece.shared ? piece.whole_first : piece.first,
                     piece.shared ? piece.whole_count : piece.count});
  return all;
}

int StepRunner::plan(std::span<const SequenceChunk> chunks) {
  plan_.build(chunks, options_.max_batch_tokens, static_cast<int>(microbatches_.size()), ranks_);
  expect(heads_ || plan_.shared_slices().empty(), "StepRunner: a shared chunk without ranks to share it");
  return plan_.own_slices();
}

std::vector<LayerPass> StepRunner::make_passes() {
  std::vector<LayerPass> passes;
  for (const auto& microbatch : microbatches_)
    passes.emplace_back(weights_.config, weights_.rope, options_.attention, gemm_, exchange_.get(), heads_.get(),
                        clock_, microbatch->activations);
  return passes;
}

/// Of two microbatches one computes while the other's rows travel: its rows to the experts go under the other's
/// attention, its sums back under the other's experts.
void StepRunner::run_layers(std::span<LayerPass> passes) {
  const auto begin_layer = [&](LayerPass& pass, int index) {
    const Layer& layer = weights_.layers[static_cast<std::size_t>(index)];
    pass.attention(layer, index);
    pass.send(layer);
  };
  for (LayerPass& pass : passes) begin_layer(pass, 0);
  for (int index = 0, moe_layer = 0; index < config().n_layers; ++index) {
    const Layer& layer = weights_.layers[static_cast<std::size_t>(index)];
    for (LayerPass& pass : passes) pass.experts(layer);
    for (std::size_t m = 0; m < passes.size(); ++m) {
      passes[m].receive(layer);
      if (observer_ && microbatches_[m]->activations.rows > 0) trace(*microbatches_[m], index);
      if (layer.experts) count_rows(*microbatches_[m], counts_of(routed_rows_, m, moe_layer));
      if (index + 1 < config().n_layers) begin_layer(passes[m], index + 1);
    }
    if (layer.experts) ++moe_layer;
  }
}

StepResult StepRunner::run_main(std::span<const SequenceChunk> chunks, int slices) {
  logits_.grow(product(plan_.logit_rows(), config().vocab_size));
  if (weights_.mtp) all_hidden_.grow(plan_.rows() * static_cast<std::size_t>(config().hidden_size));
  std::size_t hidden_floats = 0;
  std::ranges::fill(routed_rows_, 0);
  std::vector<LayerPass> passes = make_passes();
  for (int i = 0; i < slices; ++i) run_slice(plan_.slice(i), chunks, passes, hidden_floats);
  for (const StepPlan::Slice& slice : plan_.shared_slices()) run_slice(slice, chunks, passes, hidden_floats);
  return result(hidden_floats, slices + static_cast<int>(plan_.shared_slices().size()));
}

void StepRunner::run_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks,
                           std::span<LayerPass> passes, std::size_t& hidden_floats) {
  begin_slice(slice, chunks, weights_.embedding);
  run_layers(passes);
  for (const auto& microbatch : microbatches_) {
    if (!weights_.mtp) break;
    const Activations& a = microbatch->activations;
    normalise_rows(a.hidden.data(), weights_.final_norm, config().rms_norm_eps, a.rows,
                   all_hidden_.data() + hidden_floats);
    hidden_floats += product(a.rows, config().hidden_size);
  }
  write_logits(slice, Rows::all, weights_.final_norm, weights_.head);
}

void StepRunner::fill_draft_slice(std::span<LayerPass> passes, const StepPlan::Slice& slice,
                                  std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts) {
  const MtpModule& module = *weights_.mtp;
  begin_slice(slice, chunks, module.embedding ? *module.embedding : weights_.embedding);
  for (std::size_t m = 0; m < passes.size(); ++m) {
    join(*microbatches_[m], drafts);
    passes[m].fill_cache(module.layer, 0);
  }
}

StepResult StepRunner::run_draft(std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts,
                                 int slices) {
  const MtpModule& module = *weights_.mtp;
  logits_.grow(product(plan_.logit_rows(), config().vocab_size));
  std::ranges::fill(drafted_rows_, 0);
  std::vector<LayerPass> passes = make_passes();
  for (int i = 0; i < slices; ++i) {
    const StepPlan::Slice& slice = plan_.slice(i);
    fill_draft_slice(passes, slice, chunks, drafts);
    for (std::size_t m = 0; m < passes.size(); ++m) {
      keep_rows_with_logits(*microbatches_[m]);
      passes[m].attend(module.layer, 0);
      passes[m].send(module.layer);
    }
    for (LayerPass& pass : passes) pass.experts(module.layer);
    for (std::size_t m = 0; m < passes.size(); ++m) {
      passes[m].receive(module.layer);
      if (module.layer.experts) count_rows(*microbatches_[m], counts_of(drafted_rows_, m, 0));
    }
    write_logits(slice, Rows::with_logits, module.final_norm, module.head ? *module.head : weights_.head);
  }
  return result(0, slices);
}

void StepRunner::fill_draft_cache(std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts,
                                  int slices) {
  std::vector<LayerPass> passes = make_passes();
  for (int i = 0; i < slices; ++i) fill_draft_slice(passes, plan_.slice(i), chunks, drafts);
  for (const StepPlan::Slice& slice : plan_.shared_slices()) fill_draft_slice(passes, slice, chunks, drafts);
  clock_.lap(&StepStatistics::attention);
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
  for (std::size_t m = 0; m < microbatches_.size(); ++m) {
    microbatches_[m]->pieces = slice.microbatch(static_cast<int>(m));
    begin_microbatch(*microbatches_[m], chunks, rows_of);
  }
  ++clock_.statistics.slices;
  clock_.lap(&StepStatistics::other);
}

void StepRunner::begin_microbatch(Microbatch& microbatch, std::span<const SequenceChunk> chunks,
                                  const TokenEmbedding& rows_of) {
  Activations& a = microbatch.activations;
  const auto width = static_cast<std::size_t>(config().hidden_size);
  const std::size_t half = static_cast<std::size_t>(weights_.rope.half());
  a.spans.clear();
  a.shared.reset();
  std::size_t row = 0;
  for (const StepPlan::Piece& piece : microbatch.pieces) {
    const SequenceChunk& chunk = chunks[static_cast<std::size_t>(piece.chunk)];
    int start = chunk.cache->length();
    chunk.cache->extend(piece.shared ? piece.whole_count : piece.count);
    if (piece.shared) {
      a.shared = SharedRows{chunk.cache, start, piece.whole_count, *chunk.split_home};
      start += piece.first - piece.whole_first;
    }
    AttentionSpan& span = a.spans.emplace_back(AttentionSpan{chunk.cache, start, piece.count, static_cast<int>(row)});
    if (!piece.shared && piece.whole_count > piece.count) {
      span.whole_start = start - (piece.first - piece.whole_first);
      span.whole_count = piece.whole_count;
    }
    for (int i = 0; i < piece.count; ++i, ++row) {
      rows_of.copy_row(chunk.tokens[static_cast<std::size_t>(piece.first + i)], a.hidden.data() + row * width);
      weights_.rope.angles(start + i, {a.attention.cosines.data() + row * half, half},
                           {a.attention.sines.data() + row * half, half});
    }
  }
  a.rows = static_cast<int>(row);
  clock_.statistics.tokens += a.rows;
}

void StepRunner::join(Microbatch& microbatch, std::span<const DraftChunk> drafts) {
  const MtpModule& module = *weights_.mtp;
  Activations& a = microbatch.activations;
  const auto width = static_cast<std::size_t>(config().hidden_size);
  const auto eps = static_cast<float>(config().rms_norm_eps);
  std::size_t row = 0;
  for (const StepPlan::Piece& piece : microbatch.pieces) {
    const float* from = drafts[static_cast<std::size_t>(piece.chunk)].hidden.data();
    for (int i = 0; i < piece.count; ++i, ++row) {
      float* to = joined_.data() + 2 * row * width;
      rms_norm(a.hidden.data() + row * width, module.token_norm.data(), eps, width, to);
      rms_norm(from + static_cast<std::size_t>(piece.rows_before + i) * width, module.hidden_norm.data(), eps, width,
               to + width);
    }
  }
  gemm_.multiply(module.join, joined_.data(), a.rows, a.hidden.data());
  clock_.lap(&StepStatistics::dense);
}

void StepRunner::keep_rows_with_logits(Microbatch& microbatch) {
  Activations& a = microbatch.activations;
  int kept = 0;
  for (const StepPlan::Piece& piece : microbatch.pieces) kept += piece.logit_count;
  if (kept == a.rows) return;
  kept = 0;
  for (std::size_t i = 0; i < a.spans.size(); ++i) {
    AttentionSpan& span = a.spans[i];
    const int count = microbatch.pieces[i].logit_count, dropped = span.count - count, from = span.first_row + dropped;
    for (HugePageBuffer<float>* values : {&a.hidden, &a.normed})
      std::memmove(values->data() + product(kept, config().hidden_size),
                   values->data() + product(from, config().hidden_size),
                   product(count, config().hidden_size) * sizeof(float));
    a.attention.move_rows(from, kept, count);
    // Rows that have lost some before them are no part of anything.
    AttentionSpan left{span.cache, span.start + dropped, count, kept};
    if (dropped == 0) left.whole_start = span.whole_start, left.whole_count = span.whole_count;
    span = left;
    kept += count;
  }
  std::erase_if(a.spans, [](const AttentionSpan& span) { return span.count == 0; });
  a.rows = kept;
  clock_.lap(&StepStatistics::attention);
}

void StepRunner::trace(const Microbatch& microbatch, int index) {
  const Activations& a = microbatch.activations;
  LayerTrace trace{index, a.rows, a.hidden.span().first(product(a.rows, config().hidden_size)), {}, {}};
  if (weights_.layers[static_cast<std::size_t>(index)].experts) {
    trace.expert_ids = a.moe->expert_ids.span().first(product(a.rows, config().topk));
    trace.expert_weights = a.moe->expert_weights.span().first(product(a.rows, config().topk));
  }
  observer_(trace);
}

std::span<std::int32_t> StepRunner::counts_of(std::vector<std::int32_t>& rows, std::size_t microbatch,
                                              int moe_layer) const {
  if (rows.empty()) return {};
  const std::size_t each = rows.size() / microbatches_.size(),
                    experts = static_cast<std::size_t>(config().n_routed_experts);
  return std::span(rows).subspan(microbatch * each + static_cast<std::size_t>(moe_layer) * experts, experts);
}

std::span<const std::int32_t> StepRunner::part_of(const std::vector<std::int32_t>& rows, int microbatch) const {
  const std::size_t each = rows.size() / microbatches_.size();
  return std::span(rows).subspan(static_cast<std::size_t>(microbatch) * each, each);
}

void StepRunner::count_rows(const Microbatch& microbatch, std::span<std::int32_t> counts) const {
  if (counts.empty()) return;
  const Activations& a = microbatch.activations;
  for (const std::int32_t slot : a.moe->expert_slots.span().first(product(a.rows, config().topk)))
    if (slot >= 0) ++counts[static_cast<std::size_t>(slot)];
}

void StepRunner::write_logits(const StepPlan::Slice& slice, Rows there, const std::vector<float>& norm,
                              const PackedMatrix& head) {
  int wanted = 0;
  for (const auto& microbatch : microbatches_) {
    int row = 0;
    for (const StepPlan::Piece& piece : microbatch->pieces) {
      row += there == Rows::all ? piece.count : piece.logit_count;
      normalise_rows(microbatch->activations.hidden.data() + product(row - piece.logit_count, config().hidden_size),
                     norm, config().rms_norm_eps, piece.logit_count,
                     head_in_.data() + product(wanted, config().hidden_size));
      wanted += piece.logit_count;
    }
  }
  // A slice's rows of logits lie together: the head is read once.
  if (wanted > 0)
    gemm_.multiply(head, head_in_.data(), wanted,
                   logits_.data() + product(slice.pieces.front().first_logit_row, config().vocab_size));
  clock_.lap(&StepStatistics::head);
}

}  // namespace supernode::moe
