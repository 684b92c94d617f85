#pragma once
// The engine that computes every token.

#include "moe/transformer.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

class RealEngine : public StepEngine {
 public:
  /// Borrows the model, which is collective over the dies of the instance.
  explicit RealEngine(moe::Transformer& model);

  std::unique_ptr<SequenceState> make_state(int max_tokens) override;
  std::size_t state_bytes_per_token() const override { return bytes_per_token_; }
  StepOutcome step(std::span<const StepWork> works, RunTime start) override;

 private:
  moe::Transformer& model_;
  std::size_t bytes_per_token_;
};

}  // namespace supernode::serving
