#pragma once
// An engine on a modelled clock: another engine does the work and says what it did; the first die of the instance
// gathers the records of all and prices them.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/message_port.hpp"
#include "runtime/emulation/step_time.hpp"
#include "runtime/serving/injection.hpp"
#include "runtime/serving/record/priced_step.hpp"
#include "runtime/serving/record/step_report.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

/// What is priced; equal on all dies of the instance.
struct ModelledInstance {
  emulation::Machine machine;
  emulation::ModelShape model;
  emulation::StepSetup setup;
  std::vector<int> dies;  ///< of the machine, one for each die of the instance
};

/// What is told of every step, and how; equal on all dies of the instance, the first of which tells it.
struct StepReporting {
  StepReports wanted;
  std::function<void(const StepReport&)> tell;
  /// When this host's part of the run began, by a barrier: hosts need no common clock.
  WallTime origin;
};

class ModelledEngine : public StepEngine {
 public:
  /// @param inner keeps records; borrowed @param dies connects the dies of the instance, and nothing else uses it; borrowed
  /// @param die of the instance, this one @param deadline_s longest wait for the other dies
  /// @param reporting none: nobody wants to know of steps @param injections those that make this die slow, at modelled
  /// times
  ModelledEngine(StepEngine& inner, MessagePort& dies, int die, ModelledInstance modelled, double deadline_s,
                 std::optional<StepReporting> reporting = {}, std::vector<Injection> injections = {});
  ~ModelledEngine() override;

  std::unique_ptr<EngineState> make_state(int max_tokens) override { return inner_.make_state(max_tokens); }
  std::size_t state_bytes_per_token() const override { return inner_.state_bytes_per_token(); }
  std::size_t state_end_bytes() const override { return inner_.state_end_bytes(); }
  /// As StepEngine says; `start` may differ between dies, `end` and `exchange` are modelled.
  /// @throws TimeoutError naming the dies that did not come.
  StepOutcome step(std::span<const StepWork> works, RunTime start) override;

  std::map<std::string, double> modelled_s() const override { return totals_; }
  Transfers exchanged() const override {
    Transfers all = inner_.exchanged();
    all.modelled_s = in_exchanges_.value;
    return all;
  }
  GuessCounts guesses() const override { return inner_.guesses(); }
  /// Modelled.
  StepTimes step_times() const override { return times_.times(); }

 private:
  /// What a die sends to the first one: its record, and when it worked on its host.
  struct Gathered;

  /// When a die's part of a step ends, and where its time went.
  struct Price {
    RunTime end{};
    RunSpan exchange{};
    double computing_s = 0;
    double mean_tokens = 0;  ///< of a die of the instance
  };

  /// On the first die: what each die sent. @param own of this die
  std::vector<std::vector<std::byte>> collect(std::vector<std::byte> own);
  std::vector<Price> price(const std::vector<std::vector<std::byte>>& messages);
  /// On the other dies.
  Price await_price();
  /// The next message of the instance's dies. @throws TimeoutError that begins with what()
  template <class What>
  Message await(What&& what);
  void add_totals(const emulation::StepTiming& timing);
  void report(const std::vector<Gathered>& gathered, const std::vector<StepReport::Die>& dies, RunSpan exchange,
              const std::vector<emulation::Timeline>& timelines) const;

  StepEngine& inner_;
  MessagePort& dies_;
  const int die_;
  const ModelledInstance modelled_;
  const double deadline_s_;
  std::unique_ptr<emulation::StepPricer> pricer_;  ///< on the first die
  const std::optional<StepReporting> reporting_;
  const std::vector<Injection> injections_;
  StepTimesSample times_;
  std::int64_t step_ = 0;                 ///< priced so far
  std::map<std::string, double> totals_;  ///< by "stage: part", s; "stage: steps" counts them
  ModelTime in_exchanges_{};              ///< of all dies
};

}  // namespace supernode::serving
