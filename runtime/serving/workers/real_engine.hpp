#pragma once
// The engine that computes every token.

#include <cstdint>
#include <optional>
#include <vector>

#include "moe/transformer.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

/// Whether an engine's outcomes hold records.
enum class StepRecords { none, kept };

/// What an engine does with the model's MTP module.
enum class Speculation {
  off,    ///< there is none
  fill,   ///< prefill: states hold what the module needs to go on elsewhere
  guess,  ///< decode: a step of one token guesses the next one and verifies it
};

struct RealEngineOptions {
  /// kept: each outcome says what this die did, in as many microbatches as the model has, however many slices it cuts
  /// the step into. Slots are the experts of moe::expert_layout_of(). The model counts its rows from then on. With
  /// guesses the module's layer is the last one of a record.
  StepRecords records = StepRecords::none;
  Speculation speculation = Speculation::off;
  int block_tokens = 0;  ///< states can be exported up to each multiple of it, end included; 0: as a whole only
};

/// Its state of a sequence is a moe::SequenceState.
///
/// With guesses a step begins with the module: from the last position's hidden row and the token that comes in it
/// guesses the next token, and the model then computes both. A guess that is right stays in the state, and the token
/// behind it is the work's `further` one. Tokens are those without guesses. The module's rows of a prompt are made when
/// the state is first exported, so that no first token waits for them.
class RealEngine : public StepEngine {
 public:
  /// Borrows the model, which is collective over the dies of the instance. @pre the model has its MTP module if and
  /// only if speculation is on
  explicit RealEngine(moe::Transformer& model, RealEngineOptions options = {});

  std::unique_ptr<EngineState> make_state(int max_tokens) override;
  std::size_t state_bytes_per_token() const override { return bytes_per_token_; }
  std::size_t state_end_bytes() const override { return end_bytes_; }
  void set_background(std::function<void()> work) override;
  StepOutcome step(std::span<const StepWork> works, RunTime start) override;
  Transfers exchanged() const override {
    return {.bytes = model_.exchanged_bytes() - exchanged_before_, .wall_s = exchange_s_};
  }
  GuessCounts guesses() const override { return guesses_; }

 private:
  /// What goes into the model for a work.
  struct Input {
    std::vector<std::int32_t> tokens;  ///< those of the work, then the guess
    bool guessed = false;
    bool complete = false;  ///< whether the module can go on behind the state
    int first = 0;          ///< position of the first token
    Draw draw = Draw::token;
    std::optional<SharedWork> shared = {};
  };

  /// The works' tokens, with a guess where one can be made. Collective with speculation; adds to the exchange's time.
  std::vector<Input> make_inputs(std::span<const StepWork> works, RunSpan& exchange);
  void guess(std::span<const StepWork> works, std::vector<Input>& inputs, RunSpan& exchange);
  emulation::DieStep record(std::span<const Input> inputs) const;
  /// Draws what follows a work's tokens, keeps the guess or drops it, and notes what the module has not seen.
  /// @param row of the work's first logits @param hidden of its first token
  void finish(const StepWork& work, const Input& input, const moe::StepResult& result, int row, std::size_t hidden,
              StepOutcome& outcome);
  /// The same of a work that all dies share; each notes what it computed. Collective with an MTP module.
  void finish_shared(const StepWork& work, const Input& input, std::span<const moe::TokenShare> computed,
                     const moe::StepResult& result, int row, std::size_t hidden, StepOutcome& outcome);
  void share_tokens(std::span<const StepWork> works, std::vector<SampledToken>& tokens);
  /// Tokens of a chunk of the last forward() that this die computed, in order.
  std::vector<moe::TokenShare> computed_of(int chunk) const;

  moe::Transformer& model_;
  const RealEngineOptions options_;
  std::size_t bytes_per_token_, end_bytes_;
  GuessCounts guesses_;
  std::uint64_t exchanged_before_;  ///< bytes by the model before this engine
  double exchange_s_ = 0;           ///< of all steps
};

}  // namespace supernode::serving
