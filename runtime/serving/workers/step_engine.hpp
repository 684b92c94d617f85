#pragma once
// All that a worker knows of a model: how a sequence's state is made, and what a step does.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/emulation/die_step.hpp"
#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

/// What an engine keeps of one sequence: all of it is exported, stored and handed over together, by ranges of tokens.
/// An engine that computes keeps a moe::SequenceState.
class EngineState {
 public:
  virtual ~EngineState() = default;
  /// Tokens held.
  virtual int length() const = 0;
  /// Copies tokens [first, first + count) into `out`, count x StepEngine::state_bytes_per_token() bytes.
  virtual void export_tokens(int first, int count, std::span<std::byte> out) const = 0;
  /// Sets tokens [first, first + count), first <= length(), from exported bytes; length() grows to cover them.
  virtual void import_tokens(int first, int count, std::span<const std::byte> bytes) = 0;
};

/// Whether a step draws a token behind a sequence's new ones.
enum class Draw : std::uint8_t {
  none,  ///< more of its prompt follows in a later step
  token,
};

/// One sequence's part of a step: its next tokens go in, and one is drawn at its last position.
struct StepWork {
  RequestId request = 0;
  EngineState* state = nullptr;
  std::span<const std::int32_t> tokens;  ///< follow those in `state`, which grows by them
  moe::SamplerOptions sampler;
  std::span<const emulation::PoolLoad> loads = {};  ///< what of the state was read from the pool for this step
  Draw draw = Draw::token;
};

struct StepOutcome {
  std::vector<SampledToken> tokens;  ///< [works]; nothing for a work that draws none
  /// [works] tokens behind it that speculation gave as well; empty: none for any.
  std::vector<std::vector<std::int32_t>> further = {};
  RunSpan exchange{};  ///< dispatch and combine within the step, this die's
  /// What this die did, where the engine keeps records.
  std::optional<emulation::DieStep> record = {};
  /// When this die's part ends on a modelled clock; not set on the wall clock.
  std::optional<RunTime> end = {};
};

class StepEngine {
 public:
  virtual ~StepEngine() = default;
  /// An empty state with room for `max_tokens`, so that growing up to there does not allocate. Local.
  virtual std::unique_ptr<EngineState> make_state(int max_tokens) = 0;
  /// The same for every state. Local.
  virtual std::size_t state_bytes_per_token() const = 0;
  /// A step for the sequences of this die. Collective over the dies of the instance; a die may have no work.
  /// @param start when it begins, on the run's clock
  virtual StepOutcome step(std::span<const StepWork> works, RunTime start) = 0;
  /// Where the modelled time of all steps went, s; empty on the wall clock and on all dies but the instance's first.
  virtual std::map<std::string, double> modelled_s() const { return {}; }
};

}  // namespace supernode::serving
