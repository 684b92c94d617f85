#pragma once
// What a step of an instance costs: all its dies, from the records of what each did and from when each started. Causal:
// a die's rows leave when it has them, a die goes on when it has what it waits for, and two streams of a die overlap
// where microbatches do.
//
// validate's and plan's uniform stages (decode.hpp, prefill.hpp) are calls of the same function with one die that
// stands for all: what is held against published tables is what prices a run.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/emulation/die_step.hpp"
#include "runtime/emulation/machine/storage.hpp"
#include "runtime/emulation/machine/streams.hpp"

namespace supernode::emulation {

enum class Stage { prefill, decode };

/// How an instance works; equal on all its dies and for all its steps.
struct StepSetup {
  Stage stage = Stage::decode;
  ExpertLayout layout;
  ExchangeChoices exchange;
  // decode
  bool mtp = false;                  ///< a speculative module follows each iteration: one layer more in the records
  bool prepared_graphs = true;       ///< all graphs of a step prepared at once, sampling on the die
  double attention_share = 2.0 / 3;  ///< of the cores while two microbatches overlap; the MoE stream has the rest
  /// A step recorded in two microbatches is done as one where that ends sooner.
  bool joins_microbatches = false;
  // prefill
  PoolNetwork network = PoolNetwork::fabric;
  double block_tokens = 128;  ///< of a pooled block; each layer of a block is one piece

  /// MoE layers of a record.
  int record_layers(const ModelShape& model) const {
    return model.layers - model.dense_layers + (stage == Stage::decode && mtp ? 1 : 0);
  }
};

struct StepTiming {
  std::vector<ModelTime> ends;  ///< of each die
  int last = 0;                 ///< the die that ends last; of equals the first
  /// The tasks on the critical path through the streams of that die, from its start on: what it did and, within
  /// "dispatch" and "combine", what it waited for. An exchange that computing hides is not in it.
  Terms terms;
  /// What the exchanges on that path were made of, by cause (exchange.hpp), all layers added up; dispatch and combine in
  /// `terms` are as long.
  Terms exchange;
  /// [dies] all tasks of each, but for exchanges, collectives and loads. Tasks of two streams that overlap count both.
  std::vector<ModelTime> computing;
  int microbatches = 1;  ///< in which the step was done
  /// That all dies together were in dispatch and combine, waits included. Both of two streams that overlap count.
  ModelTime in_exchanges;

  ModelTime end() const { return ends[static_cast<std::size_t>(last)]; }
};

/// Prices the steps of one instance after each other.
class StepPricer {
 public:
  /// @param machine, model outlive it @param dies of the machine, one for each die of the instance, all different
  /// @throws std::invalid_argument for a layout that does not fit the model, or not layout.dies dies
  StepPricer(const Machine& machine, const ModelShape& model, StepSetup setup, std::span<const int> dies);
  ~StepPricer();

  /// @param steps [dies], with one microbatch or two @param starts [dies]
  /// @param timelines null, or gets a timeline for each die: its tasks, from its start on
  /// @throws std::invalid_argument for a record that does not fit the setup
  /// Cost: a few nanoseconds for each layer, microbatch and pair of dies.
  StepTiming step_time(std::span<const DieStep> steps, std::span<const ModelTime> starts,
                       std::vector<Timeline>* timelines = nullptr);

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

/// The uniform case: one die stands for all of the instance, experts are loaded as `load` says, and everybody waits for
/// the busiest. @param step its `rows` are not looked at @param timeline null, or gets the timeline of the die
StepTiming uniform_step_time(const Machine& machine, const ModelShape& model, const StepSetup& setup,
                             const ExpertLoad& load, const DieStep& step, Timeline* timeline = nullptr);

}  // namespace supernode::emulation
