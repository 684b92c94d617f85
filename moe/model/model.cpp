#include "moe/model/model.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "moe/products/kernels.hpp"

namespace supernode::moe {
namespace {

/// The user's limit on positions replaces the model's.
ModelConfig with_limit(ModelConfig config, int max_positions) {
  if (max_positions > 0) config.max_positions = max_positions;
  return config;
}

}  // namespace

Model::Model(Checkpoint& checkpoint, const TransformerOptions& o, const ExpertRange& mine)
    : options(o),
      config(with_limit(checkpoint.config(), o.max_positions)),
      gemm(o.threads),
      rope(config),
      embedding(checkpoint, "model.embed_tokens.weight", o.type),
      final_norm(checkpoint.read("model.norm.weight", {config.hidden_size})),
      head(gemm.pack(checkpoint.read(config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                                     {config.vocab_size, config.hidden_size}),
                     config.vocab_size, config.hidden_size, at_least_bf16(o.type))),
      attention_scratch(config, o.max_batch_tokens),
      feed_forward_scratch(
          std::max({config.intermediate_size, config.moe_intermediate_size * std::max(1, config.n_shared_experts)})),
      hidden(product(o.max_batch_tokens, config.hidden_size)),
      normed(hidden.size()),
      update(hidden.size()) {
  for (int index = 0; index < config.n_layers; ++index) layers.emplace_back(checkpoint, index, mine, o.type, gemm);
  if (o.mtp && checkpoint.has_mtp()) {
    mtp = std::make_unique<MtpModule>(checkpoint, mine, o.type, gemm);
    if (mtp->layer.experts) mtp->layer.experts->use_best(o.draft_experts);
    mtp->layer.attention.look_back(o.draft_window);
    joined = HugePageBuffer<float>(2 * hidden.size());
  }
  prepare();
}

void Model::prepare() {
  for (const Layer& layer : layers) layer.prepare(options.max_batch_tokens, gemm);
  gemm.prepare(head, options.max_batch_tokens);
  if (!mtp) return;
  mtp->layer.prepare(options.max_batch_tokens, gemm);
  gemm.prepare(mtp->join, options.max_batch_tokens);
  if (mtp->head) gemm.prepare(*mtp->head, options.max_batch_tokens);
}

StepResult Model::run(std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts, bool draft) {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const int slices = agreed_slices;
  statistics.slices = slices;
  logits.grow(product(plan.logit_rows(), config.vocab_size));
  const bool keep_hidden = mtp && !draft;
  std::size_t tokens = 0;
  if (keep_hidden) {
    for (const SequenceChunk& chunk : chunks) tokens += chunk.tokens.size();
    all_hidden.grow(tokens * width);
  }
  for (int i = 0; i < slices; ++i) {
    const StepPlan::Slice& slice = plan.slice(i);
    const int rows = begin_slice(slice, chunks, draft && mtp->embedding ? *mtp->embedding : embedding);
    if (draft) {
      join(slice, drafts, rows);
      remember(mtp->layer, 0, rows);
      finish_layer(mtp->layer, 0, drop_silent_rows(slice, rows));
      write_logits(slice, true, mtp->final_norm, mtp->head ? *mtp->head : head);
    } else {
      for (std::size_t index = 0; index < layers.size(); ++index) {
        remember(layers[index], static_cast<int>(index), rows);
        finish_layer(layers[index], static_cast<int>(index), rows);
        if (observer && rows > 0) trace(layers[index], static_cast<int>(index), rows);
      }
      if (keep_hidden)
        normalise(hidden.data(), final_norm, rows,
                  all_hidden.data() + static_cast<std::size_t>(statistics.tokens - rows) * width);
      write_logits(slice, false, final_norm, head);
    }
  }
  return {logits.span().first(product(plan.logit_rows(), config.vocab_size)),
          plan.logit_rows(),
          config.vocab_size,
          all_hidden.span().first(tokens * width),
          slices == 0,
          agreed_guesses && !draft};
}

int Model::begin_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks,
                       const TokenEmbedding& rows_of) {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const std::size_t half = static_cast<std::size_t>(rope.half());
  spans.clear();
  std::size_t row = 0;
  for (const StepPlan::Piece& piece : slice.pieces) {
    const SequenceChunk& chunk = chunks[static_cast<std::size_t>(piece.chunk)];
    const int start = chunk.cache->length();
    chunk.cache->extend(piece.count);
    spans.push_back({chunk.cache, start, piece.count, static_cast<int>(row)});
    for (int i = 0; i < piece.count; ++i, ++row) {
      rows_of.copy_row(chunk.tokens[static_cast<std::size_t>(piece.first + i)], hidden.data() + row * width);
      rope.angles(start + i, {attention_scratch.cosines.data() + row * half, half},
                  {attention_scratch.sines.data() + row * half, half});
    }
  }
  statistics.tokens += static_cast<int>(row);
  lap(statistics.other);
  return static_cast<int>(row);
}

void Model::join(const StepPlan::Slice& slice, std::span<const DraftChunk> drafts, int rows) {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const auto eps = static_cast<float>(config.rms_norm_eps);
  std::size_t row = 0;
  for (const StepPlan::Piece& piece : slice.pieces) {
    const float* from = drafts[static_cast<std::size_t>(piece.chunk)].hidden.data();
    for (int i = 0; i < piece.count; ++i, ++row) {
      float* to = joined.data() + 2 * row * width;
      rms_norm(hidden.data() + row * width, mtp->token_norm.data(), eps, width, to);
      rms_norm(from + static_cast<std::size_t>(piece.first + i) * width, mtp->hidden_norm.data(), eps, width,
               to + width);
    }
  }
  gemm.multiply(mtp->join, joined.data(), rows, hidden.data());
  lap(statistics.dense);
}

int Model::drop_silent_rows(const StepPlan::Slice& slice, int rows) {
  int kept = 0;
  for (const StepPlan::Piece& piece : slice.pieces) kept += piece.logit_count;
  if (kept == rows) return rows;
  kept = 0;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    AttentionSpan& span = spans[i];
    const int count = slice.pieces[i].logit_count, dropped = span.count - count, from = span.first_row + dropped;
    for (HugePageBuffer<float>* values : {&hidden, &normed})
      std::memmove(values->data() + product(kept, config.hidden_size),
                   values->data() + product(from, config.hidden_size),
                   product(count, config.hidden_size) * sizeof(float));
    attention_scratch.move_rows(from, kept, count);
    span = {span.cache, span.start + dropped, count, kept};
    kept += count;
  }
  std::erase_if(spans, [](const AttentionSpan& span) { return span.count == 0; });
  lap(statistics.attention);
  return kept;
}

void Model::normalise(const float* from, const std::vector<float>& weight, int rows, float* to) const {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const auto eps = static_cast<float>(config.rms_norm_eps);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
    rms_norm(from + r * width, weight.data(), eps, width, to + r * width);
}

void Model::remember(Layer& layer, int cache_layer, int rows) {
  if (rows == 0) return;
  normalise(hidden.data(), layer.attention_norm, rows, normed.data());
  lap(statistics.other);
  layer.attention.remember(spans, cache_layer, normed.data(), rows, gemm, attention_scratch);
}

void Model::finish_layer(Layer& layer, int cache_layer, int rows) {
  const std::size_t values = product(rows, config.hidden_size);
  if (rows > 0) {
    layer.attention.attend(spans, cache_layer, normed.data(), rows, rope, options.attention, gemm, attention_scratch,
                           update.data());
    lap(statistics.attention);
    add(update.data(), values, hidden.data());
    normalise(hidden.data(), layer.feed_forward_norm, rows, normed.data());
    lap(statistics.other);
  }
  run_feed_forward(layer, rows);
  if (rows == 0) return;
  add(update.data(), values, hidden.data());
  lap(statistics.other);
}

void Model::trace(const Layer& layer, int index, int rows) {
  LayerTrace trace{index, rows, hidden.span().first(product(rows, config.hidden_size)), {}, {}};
  if (layer.experts) {
    trace.expert_ids = moe_scratch->expert_ids.span().first(product(rows, config.topk));
    trace.expert_weights = moe_scratch->expert_weights.span().first(product(rows, config.topk));
  }
  observer(trace);
}

void Model::run_feed_forward(Layer& layer, int rows) {
  if (layer.dense) {
    layer.dense->forward(normed.data(), rows, gemm, feed_forward_scratch, update.data());
    lap(statistics.dense);
    return;
  }
  // Every rank takes part in the exchange, also one without tokens.
  MoeBlock& block = *layer.experts;
  block.route(normed.data(), rows, gemm, *moe_scratch);
  lap(statistics.gate);
  const std::size_t values = product(rows, config.hidden_size), choices = product(rows, config.topk);
  collectives::DispatchedTokens received =
      exchange->dispatch(normed.span().first(values), moe_scratch->expert_ids.span().first(choices),
                         moe_scratch->expert_weights.span().first(choices));
  lap(statistics.exchange);
  block.run_experts(received, gemm, feed_forward_scratch, *moe_scratch);
  const std::size_t sums = product(received.n_rows(), config.hidden_size);
  lap(statistics.experts);
  exchange->combine(std::move(received), moe_scratch->sums.span().first(sums), update.span().first(values));
  lap(statistics.exchange);
  block.add_shared(normed.data(), rows, gemm, feed_forward_scratch, *moe_scratch, update.data());
  lap(statistics.dense);
}

void Model::write_logits(const StepPlan::Slice& slice, bool silent_dropped, const std::vector<float>& norm,
                         const PackedMatrix& product_of_head) {
  int row = 0, wanted = 0;
  for (const StepPlan::Piece& piece : slice.pieces) {
    const int count = silent_dropped ? piece.logit_count : piece.count;
    row += count;
    normalise(hidden.data() + product(row - piece.logit_count, config.hidden_size), norm, piece.logit_count,
              normed.data() + product(wanted, config.hidden_size));
    wanted += piece.logit_count;
  }
  // A slice's rows of logits lie together: the head is read once.
  if (wanted > 0)
    gemm.multiply(product_of_head, normed.data(), wanted,
                  logits.data() + product(slice.pieces.front().first_logit_row, config.vocab_size));
  lap(statistics.head);
}

}  // namespace supernode::moe
