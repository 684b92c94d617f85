#include "runtime/serving/workers/warm_up.hpp"

#include <algorithm>
#include <vector>

namespace supernode::serving {

void warm_up(StepEngine& engine, Role role, const ServingConfig& config, const WarmUpLimits& limits) {
  const bool decode = role == Role::decode;
  const int all = decode ? std::min(config.max_decode_batch, config.max_batch_tokens) : config.max_batch_tokens;
  // Prompts of this length are attended to in one piece; more of them fill the slice.
  constexpr int prompt_tokens = 256;
  const int each = decode ? 1 : std::min({prompt_tokens, all, limits.max_length});

  // Different tokens go to different experts.
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(all));
  for (int i = 0; i < all; ++i) tokens[static_cast<std::size_t>(i)] = i % limits.vocabulary;
  std::vector<std::unique_ptr<EngineState>> states;
  std::vector<StepWork> works;
  for (int first = 0; first < all; first += each) {
    const int count = std::min(each, all - first);
    states.push_back(engine.make_state(count));
    works.push_back({0,
                     states.back().get(),
                     std::span(tokens).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                     {}});
  }
  engine.step(works, RunTime{});
  if (decode || config.split_prompts == 0 || config.prefill_dies == 1) return;
  // A prompt that all dies share has buffers of its own.
  const int shared =
      static_cast<int>(std::min<std::int64_t>(std::int64_t{all} * config.prefill_dies, limits.max_length));
  while (static_cast<int>(tokens.size()) < shared)
    tokens.push_back(static_cast<int>(tokens.size()) % limits.vocabulary);
  const std::unique_ptr<EngineState> state = engine.make_state(shared);
  StepWork work{0, state.get(), std::span(tokens).first(static_cast<std::size_t>(shared)), {}};
  work.shared = SharedWork{config.prefill_dies, 0};
  engine.step({&work, 1}, RunTime{});
}

}  // namespace supernode::serving
