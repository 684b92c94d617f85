#include "launch/serve_plan.hpp"

#include <utility>

#include <fmt/format.h>

#include "collectives/token_exchange.hpp"
#include "moe/sequence_state.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::launch {

std::string plan_text(const serving::ServeOptions& options, const moe::ModelConfig& model,
                      std::shared_ptr<const collectives::SelectionRules> rules) {
  const serving::ServingConfig& s = options.serving;
  moe::TransformerOptions wanted;  // as the run's, so far as they decide the size of its exchange
  wanted.type = options.type;
  wanted.max_batch_tokens = s.max_batch_tokens;
  wanted.microbatches = s.microbatches;
  wanted.exchange = s.exchange;
  wanted.exchange_rules = std::move(rules);
  const auto exchange_bytes = [&](int dies) {
    return model.n_routed_experts > 0 ? collectives::exchange_buffer_bytes(moe::exchange_config(model, wanted), dies)
                                      : std::size_t{0};
  };
  const double kv_token = static_cast<double>(
      moe::state_bytes_per_token(model, s.speculates() ? moe::DraftCache::included : moe::DraftCache::none));
  std::string text =
      fmt::format("# {} ranks: mpirun -n {} supernode serve ...\n", serving::world_size(s), serving::world_size(s));
  text += fmt::format("{:<13} {:>7}  {}\n", "#role", "ranks", "memory per rank, weights apart");
  text += fmt::format("{:<13} {:>7}  -\n", "coordinator", 1);
  text +=
      fmt::format("{:<13} {:>7}  exchange {}, KV {} for {} tokens\n", "prefill", s.prefill_instances * s.prefill_dies,
                  format_size(static_cast<double>(exchange_bytes(s.prefill_dies))),
                  format_size(kv_token * s.max_prefill_tokens), s.max_prefill_tokens);
  text += fmt::format("{:<13} {:>7}  exchange {}, KV {} for {} tokens\n", "decode", s.decode_instances * s.decode_dies,
                      format_size(static_cast<double>(exchange_bytes(s.decode_dies))),
                      format_size(kv_token * s.decode_kv_tokens), s.decode_kv_tokens);
  text += fmt::format("{:<13} {:>7}  pool {}\n", "cache", s.cache_ranks,
                      s.cache_ranks > 0 ? format_size(static_cast<double>(pool::window_bytes(options.pool))) : "none");
  return text;
}

}  // namespace supernode::launch
