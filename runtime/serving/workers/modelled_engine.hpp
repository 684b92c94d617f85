#pragma once
// An engine on a modelled clock: another engine does the work and says what it did; the first die of the instance
// gathers the records of all and prices them.

#include <map>
#include <memory>
#include <string>

#include "runtime/core/message_port.hpp"
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
  /// @param inner keeps records; borrowed @param dies connects the dies of the instance, and nothing else uses it; borrowed
  /// @param die of the instance, this one @param deadline_s longest wait for the other dies
  ModelledEngine(StepEngine& inner, MessagePort& dies, int die, ModelledInstance modelled, double deadline_s);
  ~ModelledEngine() override;

  std::unique_ptr<EngineState> make_state(int max_tokens) override { return inner_.make_state(max_tokens); }
  std::size_t state_bytes_per_token() const override { return inner_.state_bytes_per_token(); }
  /// As StepEngine says; `start` may differ between dies, `end` and `exchange` are modelled.
  /// @throws TimeoutError naming the dies that did not come.
  StepOutcome step(std::span<const StepWork> works, RunTime start) override;

  std::map<std::string, double> modelled_s() const override { return totals_; }

 private:
  /// When a die's part of a step ends, and what exchanges took of it.
  struct Price {
    RunTime end{};
    RunSpan exchange{};
  };

  /// On the first die: the records of all, by die. @param own of this die
  std::vector<std::vector<std::byte>> collect(std::vector<std::byte> own);
  std::vector<Price> price(const std::vector<std::vector<std::byte>>& records);
  /// On the other dies.
  Price await_price();
  /// The next message of the instance's dies. @throws TimeoutError that begins with what()
  template <class What>
  Message await(What&& what);

  StepEngine& inner_;
  MessagePort& dies_;
  const int die_;
  const ModelledInstance modelled_;
  const double deadline_s_;
  std::unique_ptr<emulation::StepPricer> pricer_;  ///< on the first die
  std::map<std::string, double> totals_;           ///< by "stage: part", s; "stage: steps" counts them
};

}  // namespace supernode::serving
