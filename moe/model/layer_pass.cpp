#include "moe/model/layer_pass.hpp"

#include <utility>

#include "moe/products/kernels.hpp"

namespace supernode::moe {

void normalise_rows(const float* from, const std::vector<float>& weight, double eps, int rows, float* to) {
  const std::size_t width = weight.size();
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
    rms_norm(from + r * width, weight.data(), static_cast<float>(eps), width, to + r * width);
}

LayerPass::LayerPass(const ModelConfig& config, const Rope& rope, AttentionPath path, Gemm& gemm,
                     collectives::TokenExchange* exchange, HeadExchange* heads, StepClock& clock,
                     Activations& activations)
    : config_(config),
      rope_(rope),
      path_(path),
      gemm_(gemm),
      exchange_(exchange),
      heads_(heads),
      clock_(clock),
      a_(activations) {}

void LayerPass::attention(const Layer& layer, int cache_layer) {
  if (a_.shared) {
    fill_own_cache(layer, cache_layer);
    attend_shared(layer, cache_layer);
    return;
  }
  fill_cache(layer, cache_layer);
  attend(layer, cache_layer);
}

void LayerPass::fill_cache(const Layer& layer, int cache_layer) {
  fill_own_cache(layer, cache_layer);
  if (!a_.shared) return;
  clock_.lap(&StepStatistics::attention);
  heads_->share_cache(*a_.shared, cache_layer);
  clock_.lap(&StepStatistics::exchange);
}

/// Sequence parallel, then by head, then sequence parallel.
void LayerPass::attend_shared(const Layer& layer, int cache_layer) {
  const SharedRows& rows = *a_.shared;
  if (a_.rows > 0) layer.attention.make_queries(a_.spans, a_.normed.data(), a_.rows, gemm_, a_.attention);
  clock_.lap(&StepStatistics::attention);
  const HeadRows<const float> queries = heads_->distribute(rows, cache_layer, a_.attention.q.data());
  clock_.lap(&StepStatistics::exchange);
  const HeadRows<float> attended = heads_->attended(rows);
  const AttentionSpan all{rows.cache, rows.start, rows.count};
  if (const HeadRange mine = heads_->my_heads(); mine.count > 0)
    layer.attention.attend_heads(all, cache_layer, rope_.softmax_scale(), mine, queries, attended, gemm_, a_.attention);
  clock_.lap(&StepStatistics::attention);
  heads_->collect(rows, a_.attention.heads_out.data());
  clock_.lap(&StepStatistics::exchange);
  if (a_.rows == 0) return;
  layer.attention.project_out(a_.rows, gemm_, a_.attention, a_.update.data());
  end_attention(layer);
}

void LayerPass::fill_own_cache(const Layer& layer, int cache_layer) {
  if (a_.rows == 0) return;
  normalise_rows(a_.hidden.data(), layer.attention_norm, config_.rms_norm_eps, a_.rows, a_.normed.data());
  clock_.lap(&StepStatistics::other);
  layer.attention.fill_cache(a_.spans, cache_layer, a_.normed.data(), a_.rows, gemm_, a_.attention);
}

void LayerPass::attend(const Layer& layer, int cache_layer) {
  if (a_.rows == 0) return;
  layer.attention.attend(a_.spans, cache_layer, a_.normed.data(), a_.rows, rope_, path_, gemm_, a_.attention,
                         a_.update.data());
  end_attention(layer);
}

void LayerPass::end_attention(const Layer& layer) {
  clock_.lap(&StepStatistics::attention);
  add(a_.update.data(), product(a_.rows, config_.hidden_size), a_.hidden.data());
  normalise_rows(a_.hidden.data(), layer.feed_forward_norm, config_.rms_norm_eps, a_.rows, a_.normed.data());
  clock_.lap(&StepStatistics::other);
}

void LayerPass::send(const Layer& layer) {
  if (!layer.experts) return;
  layer.experts->route(a_.normed.data(), a_.rows, gemm_, *a_.moe);
  clock_.lap(&StepStatistics::gate);
  const std::size_t values = product(a_.rows, config_.hidden_size), choices = product(a_.rows, config_.topk);
  exchange_->dispatch_begin(a_.normed.span().first(values), a_.moe->expert_slots.span().first(choices),
                            a_.moe->expert_weights.span().first(choices));
  clock_.lap(&StepStatistics::exchange);
}

void LayerPass::experts(const Layer& layer) {
  if (layer.dense) {
    layer.dense->forward(a_.normed.data(), a_.rows, gemm_, a_.feed_forward, a_.update.data());
    clock_.lap(&StepStatistics::dense);
    return;
  }
  collectives::DispatchedTokens received = exchange_->dispatch_end();
  clock_.lap(&StepStatistics::exchange);
  layer.experts->run_experts(received, gemm_, a_.feed_forward, *a_.moe);
  const std::size_t sums = product(received.n_rows(), config_.hidden_size);
  clock_.lap(&StepStatistics::experts);
  exchange_->combine_begin(std::move(received), a_.moe->sums.span().first(sums));
  clock_.lap(&StepStatistics::exchange);
}

void LayerPass::receive(const Layer& layer) {
  const std::size_t values = product(a_.rows, config_.hidden_size);
  if (layer.experts) {
    exchange_->combine_end(a_.update.span().first(values));
    clock_.lap(&StepStatistics::exchange);
    layer.experts->add_shared(a_.normed.data(), a_.rows, gemm_, a_.feed_forward, *a_.moe, a_.update.data());
    clock_.lap(&StepStatistics::dense);
  }
  if (a_.rows == 0) return;
  add(a_.update.data(), values, a_.hidden.data());
  clock_.lap(&StepStatistics::other);
}

}  // namespace supernode::moe
