#pragma once
// All that a worker knows of a model: how a sequence's state is made, and what a step does.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/error.hpp"
#include "runtime/emulation/die_step.hpp"
#include "runtime/serving/load/payload.hpp"
#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

/// What an engine keeps of one sequence: all of it is exported, stored and handed over together, by ranges of tokens.
/// An engine that computes keeps a moe::SequenceState.
class EngineState {
 public:
  virtual ~EngineState() = default;
  /// Tokens held.
  virtual int length() const = 0;
  /// Copies tokens [first, first + count) into `out`, count x StepEngine::state_bytes_per_token() bytes. They are a
  /// function of tokens [0, first + count).
  virtual void export_tokens(int first, int count, std::span<std::byte> out) const = 0;
  /// Sets tokens [first, first + count), first <= length(), from exported bytes; length() grows to cover them.
  /// @throws EnvironmentError naming token and byte, where an engine knows what they must be and they are not.
  virtual void import_tokens(int first, int count, std::span<const std::byte> bytes) = 0;
  /// Tokens [0, count) are there without any bytes: a context in place, or one whose bytes are elided. Only in states of
  /// engines that compute nothing.
  virtual void place_tokens(int) { panic("tokens of a computed state come as bytes"); }
  /// The end behind the first `tokens` tokens, StepEngine::state_end_bytes() long: what going on there takes beside the
  /// tokens. @param tokens length(), or a multiple of a pool block's that this state has computed
  virtual void export_end(int, std::span<std::byte>) const {}
  /// Whether this die can export the end behind that many tokens. Where all dies of the instance share a sequence, each
  /// has all of its tokens, and exactly one of them the end behind a token that was computed.
  virtual bool can_export_end(int) const { return true; }
  /// The end behind the last token that was imported.
  virtual void import_end(std::span<const std::byte>) {}
};

/// Whether a step draws a token behind a sequence's new ones.
enum class Draw : std::uint8_t {
  none,  ///< more of its prompt follows in a later step
  token,
};

/// How the dies of an instance share a work.
struct SharedWork {
  int dies = 1;                           ///< of the instance
  int home = 0;                           ///< of the dies, the one that computes the last token
  std::optional<std::int32_t> next = {};  ///< the token behind the work's, where it goes on in a later step
};

/// One sequence's part of a step: its next tokens go in, and one is drawn at its last position.
struct StepWork {
  RequestId request = 0;
  EngineState* state = nullptr;
  std::span<const std::int32_t> tokens;  ///< follow those in `state`, which grows by them
  moe::SamplerOptions sampler;
  std::span<const emulation::PoolLoad> loads = {};  ///< what of the state was read from the pool for this step
  Draw draw = Draw::token;
  /// All dies of the instance have this work, behind those of their own and in the same order, with states that hold the
  /// same tokens. Each computes its share of the tokens (moe::share_of()), and all states get all of them.
  std::optional<SharedWork> shared = {};
};

struct StepOutcome {
  std::vector<SampledToken> tokens;  ///< [works]; nothing for a work that draws none; of a shared one on every die
  /// [works] tokens behind it that speculation gave as well; empty: none for any.
  std::vector<std::vector<std::int32_t>> further = {};
  RunSpan exchange{};  ///< dispatch and combine within the step, this die's
  /// What this die did, where the engine keeps records. Rows are by the slots in which experts were in this step.
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
  /// Of the end of a state, or of a part of it that something may go on from. Local.
  virtual std::size_t state_end_bytes() const { return 0; }
  /// A step for the sequences of this die. Collective over the dies of the instance; a die may have no work.
  /// @param start when it begins, on the run's clock
  virtual StepOutcome step(std::span<const StepWork> works, RunTime start) = 0;
  /// `work` runs between the layers of the steps that follow, where this die has tokens in them, so that what it has
  /// under way elsewhere moves on while it computes. It must not wait, nor call anything collective over the instance.
  /// Empty: none. An engine without arithmetic has no use for it. Local.
  virtual void set_background(std::function<void()> work) { static_cast<void>(work); }
  /// Weights of experts that this die sends beside the next step. Only an engine that prices steps wants to know. Local.
  virtual void add_transfers(std::span<const emulation::ExpertTransfer> transfers) { static_cast<void>(transfers); }
  /// Where the modelled time of all steps went, s; empty on the wall clock and on all dies but the instance's first.
  virtual std::map<std::string, double> modelled_s() const { return {}; }
  /// What dispatch and combine of all steps moved, this die's. The first die of an instance on a modelled clock has the
  /// modelled time of all dies.
  virtual Transfers exchanged() const { return {}; }
  /// What the steps so far took; nothing where nobody times them.
  virtual StepTimes step_times() const { return {}; }
  /// Of this die's steps so far.
  virtual GuessCounts guesses() const { return {}; }
  /// How evenly experts were used, where they are rebalanced; the samples on the instance's first die only.
  virtual BalanceFigures expert_balance() const { return {}; }
};

}  // namespace supernode::serving
