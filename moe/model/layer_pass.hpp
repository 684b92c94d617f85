#pragma once
// One slice's way through the layers, in steps between which another slice may take its own.

#include <span>
#include <vector>

#include "collectives/token_exchange.hpp"
#include "moe/model/activations.hpp"
#include "moe/model/head_exchange.hpp"
#include "moe/model/layer.hpp"
#include "moe/model/step_clock.hpp"
#include "moe/operators/rope.hpp"

namespace supernode::moe {

/// out[r, :] = rmsnorm(rows[r, :]) * weight, for rows [rows, weight.size()].
void normalise_rows(const float* from, const std::vector<float>& weight, double eps, int rows, float* to);

/// Takes the rows of `Activations` through layers. For each layer: attention(), send(), experts(), receive(), in this
/// order. send() begins a round of the exchange, experts() waits for the rows that it brings and begins to send the
/// sums back, receive() waits for those; so a second pass with Activations of its own may do its steps in between, and
/// the exchange then has two rounds in flight. Collective in an MoE layer, also without rows: every rank makes the same
/// calls in the same order. A dense layer is computed in experts().
class LayerPass {
 public:
  /// All arguments outlive the pass. @param exchange null for a model without routed experts
  LayerPass(const ModelConfig& config, const Rope& rope, AttentionPath path, Gemm& gemm,
            collectives::TokenExchange* exchange, HeadExchange* heads, StepClock& clock, Activations& activations);

  /// fill_cache() and attend(); of rows that the ranks share with all of them together: then it is collective.
  void attention(const Layer& layer, int cache_layer);
  /// Normalises all rows and puts them into the caches: all that a row without logits needs of the last layer.
  /// Collective with rows that the ranks share.
  void fill_cache(const Layer& layer, int cache_layer);
  /// Attends with the rows that fill_cache() has seen (or those that are left of them), adds the result to `hidden` and
  /// normalises for the layer's second half.
  void attend(const Layer& layer, int cache_layer);
  void send(const Layer& layer);
  void experts(const Layer& layer);
  void receive(const Layer& layer);

 private:
  /// Normalises this rank's rows and puts them into its caches.
  void fill_own_cache(const Layer& layer, int cache_layer);
  void attend_shared(const Layer& layer, int cache_layer);
  /// Adds what attention gave, `update`, and normalises for the second half.
  void end_attention(const Layer& layer);

  const ModelConfig& config_;
  const Rope& rope_;
  AttentionPath path_;
  Gemm& gemm_;
  collectives::TokenExchange* exchange_;
  HeadExchange* heads_;
  StepClock& clock_;
  Activations& a_;
};

}  // namespace supernode::moe
