#include "moe/transformer.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "collectives/expert_partition.hpp"
#include "collectives/token_exchange.hpp"
#include "moe/checkpoint.hpp"
#include "moe/internal/kernels.hpp"
#include "moe/internal/layer.hpp"
#include "moe/internal/step_plan.hpp"
#include "runtime/core/agreement.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/deadline.hpp"
#include "runtime/core/mpi_call.hpp"

namespace supernode::moe {
namespace {

std::size_t product(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

void check_options(const TransformerOptions& options) {
  if (options.max_batch_tokens < 1) throw UsageError("max_batch_tokens: at least 1");
  if (options.threads < 1) throw UsageError("threads: at least 1");
}

/// The user's limit on positions replaces the model's.
ModelConfig with_limit(ModelConfig config, int max_positions) {
  if (max_positions > 0) config.max_positions = max_positions;
  return config;
}

/// What rows travel as: to the experts, and their sums back.
struct Payloads {
  collectives::Payload there, back;
};
Payloads payloads_of(ComputeType type) {
  using collectives::Payload;
  if (type == ComputeType::f32) return {Payload::f32, Payload::f32};
  return {type == ComputeType::int8 ? Payload::int8 : Payload::bf16, Payload::bf16};
}

}  // namespace

struct Transformer::Impl {
  Impl(Checkpoint& checkpoint, const TransformerOptions& o, const ExpertRange& mine);

  void prepare();
  /// Checks this rank's chunks and agrees on agreed_slices and agreed_guesses.
  void agree_on_step(std::span<const SequenceChunk> chunks, bool guesses);
  /// All slices of a step of the main model, or with `drafts` (as many as chunks) of the MTP module.
  StepResult run(std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts, bool draft);
  /// Lays out the slice's rows in the caches and fills `hidden` with embedded tokens.
  int begin_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks, const TokenEmbedding& rows_of);
  /// The MTP module's input from `hidden`, which holds embedded tokens, and the chunks' hidden rows.
  void join(const StepPlan::Slice& slice, std::span<const DraftChunk> drafts, int rows);
  /// Puts all rows of the slice into the MTP layer's caches and drops those that need no logits from `hidden` and
  /// `spans`. Returns how many are left.
  int drop_silent_rows(const StepPlan::Slice& slice, int rows);
  void run_layer(Layer& layer, int cache_layer, int rows);
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
  Communicator comm;
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
  Buffer<float> hidden, normed, update;  ///< [max_batch_tokens, hidden_size]
  Buffer<float> logits;                  ///< grows with the rows asked for
  Buffer<float> all_hidden;              ///< with an MTP module: [tokens of a step, hidden_size]
  Buffer<float> joined;                  ///< with an MTP module: [max_batch_tokens, 2 hidden_size]
  std::vector<SequenceChunk> draft_chunks;
  StepPlan plan;
  int agreed_slices = 0;        ///< of the last forward(); 0: no rank had tokens
  bool agreed_guesses = false;  ///< some rank wants a draft() after it
  std::vector<AttentionSpan> spans;
  StepStatistics statistics;
  double lap_start = 0;
  std::function<void(const LayerTrace&)> observer;
};

Transformer::Impl::Impl(Checkpoint& checkpoint, const TransformerOptions& o, const ExpertRange& mine)
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
  if (o.mtp && config.n_mtp_layers > 0) {
    mtp = std::make_unique<MtpModule>(checkpoint, mine, o.type, gemm);
    joined = Buffer<float>(2 * hidden.size());
  }
  prepare();
}

void Transformer::Impl::prepare() {
  for (const Layer& layer : layers) layer.prepare(options.max_batch_tokens, gemm);
  gemm.prepare(head, options.max_batch_tokens);
  if (!mtp) return;
  mtp->layer.prepare(options.max_batch_tokens, gemm);
  gemm.prepare(mtp->join, options.max_batch_tokens);
  if (mtp->head) gemm.prepare(*mtp->head, options.max_batch_tokens);
}

Transformer::Transformer(const std::string& checkpoint_dir, const TransformerOptions& options, const Communicator& ep)
    : Transformer(collectively(ep,
                               [&] {
                                 check_options(options);
                                 return Checkpoint(checkpoint_dir);
                               }),
                  options, ep) {}

Transformer::Transformer(Checkpoint checkpoint, const TransformerOptions& options, const Communicator& ep) {
  impl_ = collectively(ep, [&] {
    check_options(options);
    const collectives::ExpertPartition partition(checkpoint.config().n_routed_experts, ep.size());
    return std::make_unique<Impl>(checkpoint, options,
                                  ExpertRange{partition.first(ep.rank()), partition.count(ep.rank())});
  });
  Impl& m = *impl_;
  m.comm = ep.duplicate();
  if (m.config.n_routed_experts == 0) return;
  const Payloads payloads = payloads_of(options.type);
  m.exchange = std::make_unique<collectives::TokenExchange>(
      m.comm, collectives::ExchangeConfig{.max_tokens = options.max_batch_tokens,
                                          .hidden = m.config.hidden_size,
                                          .topk = m.config.topk,
                                          .num_experts = m.config.n_routed_experts,
                                          .dispatch_payload = payloads.there,
                                          .combine_payload = payloads.back,
                                          .algorithm = options.exchange,
                                          .typical_tokens = std::min(options.typical_tokens, options.max_batch_tokens),
                                          .rules = options.exchange_rules,
                                          .deadline_s = options.deadline});
  m.moe_scratch = std::make_unique<MoeScratch>(m.config, options.max_batch_tokens, ep.size());
}

Transformer::~Transformer() = default;
Transformer::Transformer(Transformer&&) noexcept = default;
Transformer& Transformer::operator=(Transformer&&) noexcept = default;

const ModelConfig& Transformer::config() const { return impl_->config; }
const StepStatistics& Transformer::last_step() const { return impl_->statistics; }
void Transformer::set_observer(std::function<void(const LayerTrace&)> observer) {
  impl_->observer = std::move(observer);
}
KvCache Transformer::make_cache() const { return KvCache(impl_->config.n_layers, impl_->config.kv_width()); }

KvCache Transformer::make_draft_cache() const { return KvCache(1, impl_->config.kv_width()); }
bool Transformer::can_draft() const { return impl_->mtp != nullptr; }

void Transformer::record_products() { impl_->gemm.start_recording(); }
ProductTimes Transformer::replay_products() {
  impl_->gemm.stop_recording();
  ProductTimes times;
  times.seconds = impl_->gemm.replay();
  times.library_seconds = impl_->gemm.replay_by_library();
  times.implementations = impl_->gemm.recorded_operations();
  for (const auto& [name, operations] : times.implementations) times.operations += operations;
  return times;
}

void Transformer::Impl::agree_on_step(std::span<const SequenceChunk> chunks, bool guesses) {
  std::exception_ptr failure;
  try {
    std::set<const KvCache*> seen;
    for (const SequenceChunk& chunk : chunks) {
      check_chunk(config, chunk);
      if (!seen.insert(chunk.cache).second) throw UsageError("a cache is used twice in a step");
    }
    plan.build(chunks, options.max_batch_tokens);
  } catch (const Error&) {
    failure = std::current_exception();
  }
  const int mine[3] = {failure ? 0 : static_cast<int>(plan.slices().size()), failure ? 1 : 0, guesses ? 1 : 0};
  int agreed[3] = {0, 0, 0};
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Iallreduce(mine, agreed, 3, MPI_INT, MPI_MAX, comm.get(), &request));
  wait_until(
      [&] { return completed(request); }, options.deadline,
      [&] { return fmt::format("rank {} of {} waited for its peers to begin a step", comm.rank(), comm.size()); });
  if (agreed[1] != 0) agree(comm, failure);
  agreed_slices = agreed[0];
  agreed_guesses = agreed[2] != 0;
}

StepResult Transformer::forward(std::span<const SequenceChunk> chunks, bool guesses) {
  impl_->statistics = {};
  impl_->lap_start = wall_now().value;
  impl_->agree_on_step(chunks, guesses);
  impl_->lap(impl_->statistics.exchange);
  return impl_->run(chunks, {}, false);
}

StepResult Transformer::draft(std::span<const DraftChunk> chunks) {
  Impl& m = *impl_;
  expect(m.mtp != nullptr, "Transformer::draft without an MTP module");
  m.draft_chunks.clear();
  for (const DraftChunk& chunk : chunks) {
    expect(chunk.hidden.size() == chunk.tokens.size() * static_cast<std::size_t>(m.config.hidden_size),
           "Transformer::draft: hidden is not [tokens, hidden_size]");
    m.draft_chunks.push_back({chunk.cache, chunk.tokens, chunk.all_logits});
    check_chunk(m.config, m.draft_chunks.back());
  }
  m.statistics = {};
  m.lap_start = wall_now().value;
  // No more tokens than in the last forward(), so no more slices: nothing to agree on.
  m.plan.build(m.draft_chunks, m.options.max_batch_tokens);
  expect(static_cast<int>(m.plan.slices().size()) <= m.agreed_slices, "Transformer::draft: more than forward() had");
  return m.run(m.draft_chunks, chunks, true);
}

StepResult Transformer::Impl::run(std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts,
                                  bool draft) {
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
      run_layer(mtp->layer, 0, drop_silent_rows(slice, rows));
      write_logits(slice, true, mtp->final_norm, mtp->head ? *mtp->head : head);
    } else {
      for (std::size_t index = 0; index < layers.size(); ++index) {
        run_layer(layers[index], static_cast<int>(index), rows);
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
          agreed_guesses};
}

int Transformer::Impl::begin_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks,
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

void Transformer::Impl::join(const StepPlan::Slice& slice, std::span<const DraftChunk> drafts, int rows) {
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

int Transformer::Impl::drop_silent_rows(const StepPlan::Slice& slice, int rows) {
  const auto width = static_cast<std::size_t>(config.hidden_size), half = static_cast<std::size_t>(rope.half());
  int kept = 0;
  for (const StepPlan::Piece& piece : slice.pieces) kept += piece.logit_count;
  if (kept == rows) return rows;
  normalise(hidden.data(), mtp->layer.attention_norm, rows, normed.data());
  mtp->layer.attention.remember(spans, 0, normed.data(), rows, gemm, attention_scratch);
  kept = 0;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    AttentionSpan& span = spans[i];
    const int count = slice.pieces[i].logit_count, dropped = span.count - count;
    const auto from = static_cast<std::size_t>(span.first_row + dropped), to = static_cast<std::size_t>(kept);
    const auto move = [&](float* values, std::size_t n) {
      std::memmove(values + to * n, values + from * n, static_cast<std::size_t>(count) * n * sizeof(float));
    };
    move(hidden.data(), width);
    move(attention_scratch.cosines.data(), half);
    move(attention_scratch.sines.data(), half);
    span = {span.cache, span.start + dropped, count, kept};
    kept += count;
  }
  std::erase_if(spans, [](const AttentionSpan& span) { return span.count == 0; });
  lap(statistics.attention);
  return kept;
}

void Transformer::Impl::normalise(const float* from, const std::vector<float>& weight, int rows, float* to) const {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const auto eps = static_cast<float>(config.rms_norm_eps);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
    rms_norm(from + r * width, weight.data(), eps, width, to + r * width);
}

void Transformer::Impl::run_layer(Layer& layer, int cache_layer, int rows) {
  const std::size_t values = product(rows, config.hidden_size);
  if (rows > 0) {
    normalise(hidden.data(), layer.attention_norm, rows, normed.data());
    lap(statistics.other);
    layer.attention.forward(spans, cache_layer, normed.data(), rows, rope, options.attention, gemm, attention_scratch,
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

void Transformer::Impl::trace(const Layer& layer, int index, int rows) {
  LayerTrace trace{index, rows, hidden.span().first(product(rows, config.hidden_size)), {}, {}};
  if (layer.experts) {
    trace.expert_ids = moe_scratch->expert_ids.span().first(product(rows, config.topk));
    trace.expert_weights = moe_scratch->expert_weights.span().first(product(rows, config.topk));
  }
  observer(trace);
}

void Transformer::Impl::run_feed_forward(Layer& layer, int rows) {
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

void Transformer::Impl::write_logits(const StepPlan::Slice& slice, bool silent_dropped, const std::vector<float>& norm,
                                     const PackedMatrix& product_of_head) {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  int row = 0;
  for (const StepPlan::Piece& piece : slice.pieces) {
    const int count = silent_dropped ? piece.logit_count : piece.count, first_wanted = row + count - piece.logit_count;
    normalise(hidden.data() + static_cast<std::size_t>(first_wanted) * width, norm, piece.logit_count, normed.data());
    gemm.multiply(product_of_head, normed.data(), piece.logit_count,
                  logits.data() + product(piece.first_logit_row, config.vocab_size));
    row += count;
  }
  lap(statistics.head);
}

}  // namespace supernode::moe
