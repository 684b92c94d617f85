#include "runtime/serving/workers/real_engine.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "moe/sampler.hpp"
#include "runtime/core/error.hpp"

namespace supernode::serving {
namespace {

class RealState : public EngineState {
 public:
  RealState(moe::SequenceState state, int max_tokens) : state_(std::move(state)) { state_.reserve(max_tokens); }

  int length() const override { return state_.length(); }
  void export_tokens(int first, int count, std::span<std::byte> out) const override {
    state_.export_tokens(first, count, out);
  }
  void import_tokens(int first, int count, std::span<const std::byte> bytes) override {
    state_.import_tokens(first, count, bytes);
  }
  moe::SequenceState& state() { return state_; }

 private:
  moe::SequenceState state_;
};

/// What `works` ask of attention. @pre their states do not hold the new tokens yet
emulation::AttentionWork attention_work(std::span<const StepWork> works) {
  emulation::AttentionWork sum;
  for (const StepWork& work : works) sum.add(static_cast<double>(work.tokens.size()), work.state->length());
  return sum;
}

}  // namespace

RealEngine::RealEngine(moe::Transformer& model, StepRecords records)
    : model_(model),
      records_(records),
      bytes_per_token_(model.make_state().bytes_per_token()),
      exchanged_before_(model.exchanged_bytes()) {
  expect(!model.can_draft(), "RealEngine fills no cache of an MTP module");
  if (records == StepRecords::kept) model.record_routing(moe::RoutingRecord::kept);
}

std::unique_ptr<EngineState> RealEngine::make_state(int max_tokens) {
  return std::make_unique<RealState>(model_.make_state(), max_tokens);
}

void RealEngine::set_background(std::function<void()> work) {
  if (work)
    model_.set_observer([work = std::move(work)](const moe::LayerTrace&) { work(); });
  else
    model_.set_observer({});
}

StepOutcome RealEngine::step(std::span<const StepWork> works, RunTime) {
  std::vector<moe::SequenceChunk> chunks;
  for (const StepWork& work : works)
    chunks.push_back({&static_cast<RealState*>(work.state)->state().main, work.tokens});
  const emulation::AttentionWork attention = attention_work(works);
  const moe::StepResult result = model_.forward(chunks);

  StepOutcome outcome;
  outcome.exchange = run_span(model_.last_step().exchange);
  exchange_s_ += model_.last_step().exchange;
  if (records_ == StepRecords::kept) {
    const std::span<const std::int32_t> rows = model_.routed_rows();
    outcome.record = emulation::DieStep{.microbatches = {{attention, {rows.begin(), rows.end()}}}};
  }
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
