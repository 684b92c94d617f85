#include "moe/model/activations.hpp"

#include <algorithm>

namespace supernode::moe {

Activations::Activations(const ModelConfig& config, int max_rows, int n_ranks)
    : hidden(product(max_rows, config.hidden_size)),
      normed(hidden.size()),
      update(hidden.size()),
      attention(config, max_rows),
      feed_forward(
          std::max(config.intermediate_size, config.moe_intermediate_size * std::max(1, config.n_shared_experts))) {
  if (config.n_routed_experts > 0) moe = std::make_unique<MoeScratch>(config, max_rows, n_ranks);
}

}  // namespace supernode::moe
