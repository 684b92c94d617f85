#include "runtime/serving/workers/real_engine.hpp"

#include <algorithm>
#include <cmath>

#include "moe/sampler.hpp"

namespace supernode::serving {
namespace {

class RealState : public SequenceState {
 public:
  RealState(moe::KvCache cache, int max_tokens) : cache_(std::move(cache)) { cache_.reserve(max_tokens); }

  int length() const override { return cache_.length(); }
  void export_tokens(int first, int count, std::span<std::byte> out) const override {
    cache_.export_tokens(first, count, out);
  }
  void import_tokens(int first, int count, std::span<const std::byte> bytes) override {
    cache_.import_tokens(first, count, bytes);
  }
  moe::KvCache& cache() { return cache_; }

 private:
  moe::KvCache cache_;
};

}  // namespace

RealEngine::RealEngine(moe::Transformer& model)
    : model_(model), bytes_per_token_(model.make_cache().bytes_per_token()) {}

std::unique_ptr<SequenceState> RealEngine::make_state(int max_tokens) {
  return std::make_unique<RealState>(model_.make_cache(), max_tokens);
}

StepOutcome RealEngine::step(std::span<const StepWork> works, RunTime) {
  std::vector<moe::SequenceChunk> chunks;
  for (const StepWork& work : works) chunks.push_back({&static_cast<RealState*>(work.state)->cache(), work.tokens});
  const moe::StepResult result = model_.forward(chunks);

  StepOutcome outcome;
  outcome.exchange = run_span(model_.last_step().exchange);
  for (std::size_t i = 0; i < works.size(); ++i) {
    const std::span<const float> logits = result.row(static_cast<int>(i));
    const bool finite = std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
    const int position = works[i].state->length();
    outcome.tokens.push_back(finite ? SampledToken(moe::sample(logits, works[i].sampler, works[i].request, position))
                                    : std::nullopt);
  }
  return outcome;
}

}  // namespace supernode::serving
