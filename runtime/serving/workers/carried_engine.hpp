#pragma once
// An engine that computes nothing, with the bytes of its exchanges: another engine draws what a step did, and its rows
// are really moved.

#include "runtime/core/error.hpp"
#include "runtime/serving/workers/carried_exchange.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

class CarriedEngine : public StepEngine {
 public:
  /// Collective over `instance`. @param inner keeps records; borrowed, as the instance is
  CarriedEngine(StepEngine& inner, const Communicator& instance, const CarriedExchangeOptions& options)
      : inner_(inner), exchange_(instance, options) {}

  std::unique_ptr<EngineState> make_state(int max_tokens) override { return inner_.make_state(max_tokens); }
  std::size_t state_bytes_per_token() const override { return inner_.state_bytes_per_token(); }
  std::size_t state_end_bytes() const override { return inner_.state_end_bytes(); }
  GuessCounts guesses() const override { return inner_.guesses(); }
  /// The outcome is the inner engine's. @throws as CarriedExchange::move()
  StepOutcome step(std::span<const StepWork> works, RunTime start) override {
    StepOutcome outcome = inner_.step(works, start);
    expect(outcome.record.has_value(), "rows can be moved where records are kept");
    exchange_.move(*outcome.record);
    return outcome;
  }
  Transfers exchanged() const override { return exchange_.transfers(); }

 private:
  StepEngine& inner_;
  CarriedExchange exchange_;
};

}  // namespace supernode::serving
