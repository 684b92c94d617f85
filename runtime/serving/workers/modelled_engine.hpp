#pragma once
// An engine on a modelled clock: another engine does the work and says what it did; the first die of the instance
// gathers the records of all and prices them.

#include <map>
#include <memory>
#include <string>

#include "runtime/core/mpi/communicator.hpp"
#include "runtime/emulation/step_time.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

/// What is priced; equal on all dies of the instance.
struct ModelledInstance {
  emulation::Machine machine;
  emulation::ModelShape model;
  emulation::StepSetup setup;
  std::vector<int> dies;  ///< of the machine, one for each die of the instance
};

class ModelledEngine : public StepEngine {
 public:
  /// @param inner keeps records; borrowed @param instance all dies of the instance, borrowed
  /// @param deadline_s longest wait for the other dies
  ModelledEngine(StepEngine& inner, const Communicator& instance, ModelledInstance modelled, double deadline_s);
  ~ModelledEngine() override;

  std::unique_ptr<EngineState> make_state(int max_tokens) override { return inner_.make_state(max_tokens); }
  std::size_t state_bytes_per_token() const override { return inner_.state_bytes_per_token(); }
  std::size_t state_end_bytes() const override { return inner_.state_end_bytes(); }
  /// As StepEngine says; `start` may differ between dies, `end` and `exchange` are modelled.
  /// @throws TimeoutError naming the dies that did not come.
  StepOutcome step(std::span<const StepWork> works, RunTime start) override;

  std::map<std::string, double> modelled_s() const override { return totals_; }
  GuessCounts guesses() const override { return inner_.guesses(); }

 private:
  /// The ends of all dies and what exchanges took on the way to the last of them, each in ns. [dies x 2]
  std::vector<std::int64_t> price(const std::vector<std::vector<std::byte>>& records);

  StepEngine& inner_;
  const Communicator& instance_;
  const ModelledInstance modelled_;
  const double deadline_s_;
  std::unique_ptr<emulation::StepPricer> pricer_;  ///< on the first die
  std::map<std::string, double> totals_;           ///< by "stage: part", s; "stage: steps" counts them
};

}  // namespace supernode::serving
