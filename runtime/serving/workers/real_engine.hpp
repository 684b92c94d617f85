#pragma once
// The engine that computes every token.

#include <cstdint>

#include "moe/transformer.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

/// Whether an engine's outcomes hold records.
enum class StepRecords { none, kept };

/// Its state of a sequence is a moe::SequenceState.
class RealEngine : public StepEngine {
 public:
  /// Borrows the model, which is collective over the dies of the instance. @pre the model makes no guesses: a step fills
  /// the main cache only.
  /// @param records kept: each outcome says what this die did, in one microbatch however many slices the model cuts the
  /// step into. Its slots are the experts of moe::expert_layout_of(). The model counts its rows from then on.
  explicit RealEngine(moe::Transformer& model, StepRecords records = StepRecords::none);

  std::unique_ptr<EngineState> make_state(int max_tokens) override;
  std::size_t state_bytes_per_token() const override { return bytes_per_token_; }
  void set_background(std::function<void()> work) override;
  StepOutcome step(std::span<const StepWork> works, RunTime start) override;
  Transfers exchanged() const override {
    return {.bytes = model_.exchanged_bytes() - exchanged_before_, .wall_s = exchange_s_};
  }

 private:
  moe::Transformer& model_;
  StepRecords records_;
  std::size_t bytes_per_token_;
  std::uint64_t exchanged_before_;  ///< bytes by the model before this engine
  double exchange_s_ = 0;           ///< of all steps
};

}  // namespace supernode::serving
