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
#include "moe/internal/attention.hpp"
#include "moe/internal/feed_forward.hpp"
#include "moe/internal/gemm.hpp"
#include "moe/internal/kernels.hpp"
#include "moe/internal/moe_block.hpp"
#include "moe/internal/step_plan.hpp"
#include "runtime/core/agreement.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/deadline.hpp"
#include "runtime/core/mpi_call.hpp"

namespace supernode::moe {
namespace {

std::size_t product(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

void check_options(const TransformerOptions& options) {
  if (options.type != ComputeType::f32) throw UsageError("type: bf16 and int8 are not implemented yet; use f32");
  if (options.max_batch_tokens < 1) throw UsageError("max_batch_tokens: at least 1");
  if (options.threads < 1) throw UsageError("threads: at least 1");
}

struct ExpertRange {
  int first = 0, count = 0;
};

/// One of the model's layers: normalise, attend, add; normalise, feed forward, add.
struct Layer {
  std::vector<float> attention_norm, feed_forward_norm;
  Attention attention;
  std::unique_ptr<FeedForward> dense;  ///< this or
  std::unique_ptr<MoeBlock> experts;   ///< that
};

Layer read_layer(Checkpoint& checkpoint, int index, const ExpertRange& mine, Gemm& gemm) {
  const ModelConfig& c = checkpoint.config();
  const std::string prefix = fmt::format("model.layers.{}.", index);
  Layer layer{checkpoint.read(prefix + "input_layernorm.weight", {c.hidden_size}),
              checkpoint.read(prefix + "post_attention_layernorm.weight", {c.hidden_size}),
              Attention(checkpoint, prefix + "self_attn.", gemm), nullptr, nullptr};
  if (c.is_moe_layer(index)) {
    layer.experts = std::make_unique<MoeBlock>(checkpoint, prefix + "mlp.", mine.first, mine.count, gemm);
  } else {
    layer.dense = std::make_unique<FeedForward>(checkpoint, prefix + "mlp.", c.intermediate_size, gemm);
  }
  return layer;
}

/// The user's limit on positions replaces the model's.
ModelConfig with_limit(ModelConfig config, int max_positions) {
  if (max_positions > 0) config.max_positions = max_positions;
  return config;
}

}  // namespace

struct Transformer::Impl {
  Impl(Checkpoint& checkpoint, const TransformerOptions& o, const ExpertRange& mine);

  /// Checks this rank's chunks and agrees on the number of slices; 0 when no rank has tokens.
  int agree_on_slices(std::span<const SequenceChunk> chunks);
  void run_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks);
  void run_layers(int rows);
  void run_feed_forward(Layer& layer, int rows);
  void write_logits(const StepPlan::Slice& slice);

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
  std::vector<float> embedding, final_norm;
  PackedMatrix head;
  std::vector<Layer> layers;
  std::unique_ptr<collectives::TokenExchange> exchange;  ///< null for a model without routed experts

  AttentionScratch attention_scratch;
  FeedForwardScratch feed_forward_scratch;
  std::unique_ptr<MoeScratch> moe_scratch;
  Buffer<float> hidden, normed, update;  ///< [max_batch_tokens, hidden_size]
  Buffer<float> logits;                  ///< grows with the rows asked for
  StepPlan plan;
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
      embedding(checkpoint.read("model.embed_tokens.weight", {config.vocab_size, config.hidden_size})),
      final_norm(checkpoint.read("model.norm.weight", {config.hidden_size})),
      head(gemm.pack(config.tied_embeddings
                         ? embedding
                         : checkpoint.read("lm_head.weight", {config.vocab_size, config.hidden_size}),
                     config.vocab_size, config.hidden_size)),
      attention_scratch(config, o.max_batch_tokens),
      feed_forward_scratch(
          std::max({config.intermediate_size, config.moe_intermediate_size * std::max(1, config.n_shared_experts)})),
      hidden(product(o.max_batch_tokens, config.hidden_size)),
      normed(hidden.size()),
      update(hidden.size()) {
  for (int index = 0; index < config.n_layers; ++index) layers.push_back(read_layer(checkpoint, index, mine, gemm));
}

Transformer::Transformer(const std::string& checkpoint_dir, const TransformerOptions& options, const Communicator& ep) {
  auto checkpoint = collectively(ep, [&] {
    check_options(options);
    return Checkpoint(checkpoint_dir);
  });
  impl_ = collectively(ep, [&] {
    const collectives::ExpertPartition partition(checkpoint.config().n_routed_experts, ep.size());
    return std::make_unique<Impl>(checkpoint, options,
                                  ExpertRange{partition.first(ep.rank()), partition.count(ep.rank())});
  });
  Impl& m = *impl_;
  m.comm = ep.duplicate();
  if (m.config.n_routed_experts == 0) return;
  m.exchange = std::make_unique<collectives::TokenExchange>(
      m.comm, collectives::ExchangeConfig{.max_tokens = options.max_batch_tokens,
                                          .hidden = m.config.hidden_size,
                                          .topk = m.config.topk,
                                          .num_experts = m.config.n_routed_experts,
                                          .algorithm = options.exchange,
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

int Transformer::Impl::agree_on_slices(std::span<const SequenceChunk> chunks) {
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
  const int mine[2] = {failure ? 0 : static_cast<int>(plan.slices().size()), failure ? 1 : 0};
  int agreed[2] = {0, 0};
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Iallreduce(mine, agreed, 2, MPI_INT, MPI_MAX, comm.get(), &request));
  wait_until(
      [&] {
        int done = 0;
        SUPERNODE_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
        return done != 0;
      },
      options.deadline,
      [&] { return fmt::format("rank {} of {} waited for its peers to begin a step", comm.rank(), comm.size()); });
  if (agreed[1] != 0) agree(comm, failure);
  return agreed[0];
}

StepResult Transformer::forward(std::span<const SequenceChunk> chunks) {
  Impl& m = *impl_;
  m.statistics = {};
  m.lap_start = wall_now().value;
  const int slices = m.agree_on_slices(chunks);
  m.statistics.slices = slices;
  m.lap(m.statistics.exchange);

  m.logits.grow(product(m.plan.logit_rows(), m.config.vocab_size));
  for (int i = 0; i < slices; ++i) m.run_slice(m.plan.slice(i), chunks);
  return {m.logits.span().first(product(m.plan.logit_rows(), m.config.vocab_size)), m.plan.logit_rows(),
          m.config.vocab_size, slices == 0};
}

void Transformer::Impl::run_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks) {
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
      const auto token = static_cast<std::size_t>(chunk.tokens[static_cast<std::size_t>(piece.first + i)]);
      std::memcpy(hidden.data() + row * width, embedding.data() + token * width, width * sizeof(float));
      rope.angles(start + i, {attention_scratch.cosines.data() + row * half, half},
                  {attention_scratch.sines.data() + row * half, half});
    }
  }
  statistics.tokens += static_cast<int>(row);
  lap(statistics.other);
  run_layers(static_cast<int>(row));
  write_logits(slice);
  lap(statistics.other);
}

void Transformer::Impl::run_layers(int rows) {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const auto eps = static_cast<float>(config.rms_norm_eps);
  const auto normalise = [&](const std::vector<float>& weight) {
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
      rms_norm(hidden.data() + r * width, weight.data(), eps, width, normed.data() + r * width);
  };
  const auto add_update = [&] { add(update.data(), static_cast<std::size_t>(rows) * width, hidden.data()); };

  for (std::size_t index = 0; index < layers.size(); ++index) {
    Layer& layer = layers[index];
    if (rows > 0) {
      normalise(layer.attention_norm);
      layer.attention.forward(spans, static_cast<int>(index), normed.data(), rows, rope, options.attention, gemm,
                              attention_scratch, update.data());
      add_update();
      lap(statistics.attention);
      normalise(layer.feed_forward_norm);
    }
    run_feed_forward(layer, rows);
    if (rows == 0) continue;
    add_update();
    lap(statistics.other);
    if (observer) {
      LayerTrace trace{
          static_cast<int>(index), rows, hidden.span().first(static_cast<std::size_t>(rows) * width), {}, {}};
      if (layer.experts) {
        trace.expert_ids = moe_scratch->expert_ids.span().first(product(rows, config.topk));
        trace.expert_weights = moe_scratch->expert_weights.span().first(product(rows, config.topk));
      }
      observer(trace);
    }
  }
}

void Transformer::Impl::run_feed_forward(Layer& layer, int rows) {
  if (layer.dense) {
    layer.dense->forward(normed.data(), rows, gemm, feed_forward_scratch, update.data());
    lap(statistics.other);
    return;
  }
  // Every rank takes part in the exchange, also one without tokens.
  MoeBlock& block = *layer.experts;
  block.route(normed.data(), rows, gemm, *moe_scratch);
  lap(statistics.other);
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
}

void Transformer::Impl::write_logits(const StepPlan::Slice& slice) {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const auto eps = static_cast<float>(config.rms_norm_eps);
  int row = 0;
  for (const StepPlan::Piece& piece : slice.pieces) {
    const int first_wanted = row + piece.count - piece.logit_count;
    for (int i = 0; i < piece.logit_count; ++i)
      rms_norm(hidden.data() + static_cast<std::size_t>(first_wanted + i) * width, final_norm.data(), eps, width,
               normed.data() + static_cast<std::size_t>(i) * width);
    gemm.multiply(head, normed.data(), piece.logit_count,
                  logits.data() + product(piece.first_logit_row, config.vocab_size));
    row += piece.count;
  }
}

}  // namespace supernode::moe
