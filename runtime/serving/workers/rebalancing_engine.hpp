#pragma once
// An engine whose experts change dies while it serves: it counts how experts are used, and when dies are loaded too
// unevenly their weights move beside the steps that follow.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "moe/placement/rebalancing.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/message_port.hpp"
#include "runtime/serving/workers/movable_experts.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

/// Equal on all dies of an instance.
struct RebalancingOptions {
  int interval = 1;  ///< steps between two looks at the counts, > 0
  moe::RebalancingPolicy policy;
  std::size_t bytes_per_step = 16u << 20;  ///< of weights that a die sends, and receives, beside a step
};

/// The dies of an instance, as one of them reaches the others.
struct InstanceDies {
  int die = 0;                                    ///< this one
  int count = 1;                                  ///< all of them
  MessagePort* port = nullptr;                    ///< for weights; nothing else uses it
  std::function<void(std::span<double>)> add_up;  ///< each value becomes its sum over dies; collective
  double deadline_s = 120;                        ///< longest wait for another die
};

/// All dies of an instance take the same decisions at the same step. Every `interval` steps they add up their counts. If a
/// layer is above the threshold, and no move is under way, the first die finds better places (moe::rebalance()) and the
/// others learn them with a second sum. All then know which weights travel beside which step. A die sends its pieces
/// before a step, takes in what comes between the layers and behind it, and waits for the rest. So when a step is over
/// the pieces of that step are there on all dies, and layers that are complete change their places for the next one.
class RebalancingEngine : public StepEngine {
 public:
  /// @param inner leaves records in its outcomes; borrowed @param experts those of the engine that does the work
  RebalancingEngine(StepEngine& inner, std::unique_ptr<MovableExperts> experts, RebalancingOptions options,
                    InstanceDies dies);
  ~RebalancingEngine() override;

  std::unique_ptr<EngineState> make_state(int max_tokens) override { return inner_.make_state(max_tokens); }
  std::size_t state_bytes_per_token() const override { return inner_.state_bytes_per_token(); }
  std::size_t state_end_bytes() const override { return inner_.state_end_bytes(); }
  void set_background(std::function<void()> work) override { background_ = std::move(work); }
  /// The outcome is the inner engine's. @throws TimeoutError naming the dies whose weights have not come; EnvironmentError
  /// for weights that nobody asked for.
  StepOutcome step(std::span<const StepWork> works, RunTime start) override;
  std::map<std::string, double> modelled_s() const override { return inner_.modelled_s(); }
  Transfers exchanged() const override { return inner_.exchanged(); }
  StepTimes step_times() const override { return inner_.step_times(); }
  GuessCounts guesses() const override { return inner_.guesses(); }
  BalanceFigures expert_balance() const override;

  /// Moves all experts back to where they were at first, and drops a move that is under way: a model that computes is then
  /// as it was before. Collective over the dies of the instance, behind the last step. @throws as step()
  void restore();

 private:
  void begin_moves(std::size_t most);
  /// Waits for what this step brings, and lets layers change places.
  void finish_moves();
  /// Takes in weights that are here.
  void take_in();
  void take(Message message);
  /// Whether the message is one of the pieces of this step, which is then staged. take() keeps those of later steps.
  bool stage(const Message& message);
  void count(std::span<const StepWork> works, const StepOutcome& outcome, double step_s);
  void look(double at_s);
  BalanceSample sample_of(std::span<const double> sums, double at_s) const;
  /// What the first die says about loads, as all dies know it then.
  std::vector<moe::LayerChange> decide(const std::vector<std::vector<double>>& loads);
  std::size_t layers() const { return placements_.size(); }

  StepEngine& inner_;
  const std::unique_ptr<MovableExperts> experts_;
  const RebalancingOptions options_;
  const InstanceDies dies_;
  const moe::PlacementShape shape_;
  const std::vector<std::vector<int>> first_placements_;
  std::vector<std::vector<int>> placements_;  ///< [layers][slots] now

  moe::MovePlan plan_;
  std::vector<moe::MovePiece> awaited_;  ///< of this step, that have not come
  std::deque<Message> early_;            ///< of later steps, from dies that are ahead
  std::function<void()> background_;     ///< somebody else's

  /// Since the last look: rows by [layers][experts], then by [layers][ranks], then the totals.
  std::vector<double> counts_;
  int steps_ = 0;  ///< since the last look
  std::uint64_t switched_ = 0;
  BalanceFigures figures_;
};

}  // namespace supernode::serving
