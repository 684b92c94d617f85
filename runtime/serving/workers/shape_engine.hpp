#pragma once
// The engine that computes nothing: what a step did is drawn, and so are its tokens.

#include "runtime/emulation/routing.hpp"
#include "runtime/emulation/step_time.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

struct ShapeOptions {
  emulation::ModelShape model;
  emulation::StepSetup setup;  ///< stage, layout and speculation of the instance; what prices the records
  emulation::ExpertLoad load = {};
  std::uint64_t seed = 0;           ///< of tokens and routing; equal on all dies
  int die = 0;                      ///< of the instance, this one
  int microbatches = 1;             ///< of a step: 1 or 2
  double acceptance = 0;            ///< chance that a speculated token is right, in [0, 1]
  std::int32_t vocabulary = 1;      ///< tokens are in [0, vocabulary)
  std::size_t bytes_per_token = 0;  ///< of a sequence's state; 0: states have no bytes
};

/// Everything that it draws is a function of seed, request and position: neither the batch nor the die matters, and a
/// request has the same tokens with and without speculation. Records are what StepPricer takes.
///
/// A decode step with speculation has two new tokens a sequence: the one that came in and the guess of the next. A guess
/// that is right stays in the state, and the token behind it is the work's `further` one. A state may so end up one
/// token beyond what its caller needed.
///
/// The bytes of a state are a function of position, so that one place can check what another wrote: import_tokens()
/// refuses a wrong byte.
class ShapeEngine : public StepEngine {
 public:
  /// @throws std::invalid_argument for a layout or loads that do not fit the model (Routing), and for options outside
  /// their ranges
  explicit ShapeEngine(ShapeOptions options);

  std::unique_ptr<EngineState> make_state(int max_tokens) override;
  std::size_t state_bytes_per_token() const override { return options_.bytes_per_token; }
  /// Local, unlike other engines' steps. Its outcome has a record; end and exchange are not set.
  StepOutcome step(std::span<const StepWork> works, RunTime start) override;
  GuessCounts guesses() const override { return guesses_; }

  const ShapeOptions& options() const { return options_; }
  const emulation::Routing& routing() const { return routing_; }
  /// From the next step on the experts of a layer of records are in these slots (Routing::place()).
  void place_experts(int layer, std::span<const int> placement) { routing_.place(layer, placement); }

  /// The token of a request at a position.
  std::int32_t token(RequestId request, int position) const;
  /// Whether speculation guesses it.
  bool guessed(RequestId request, int position) const;

 private:
  struct Part;

  bool speculates() const { return options_.setup.stage == emulation::Stage::decode && options_.setup.mtp; }
  std::vector<std::vector<Part>> split(std::span<const StepWork> works) const;
  emulation::MicrobatchStep record(std::span<const Part> parts) const;

  ShapeOptions options_;
  emulation::Routing routing_;
  GuessCounts guesses_;
};

}  // namespace supernode::serving
