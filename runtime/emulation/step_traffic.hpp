#pragma once
// Who sends what in the exchanges of one step, and what the experts then compute: as recorded from every die, or even
// with one die that stands for all.

#include <memory>
#include <span>
#include <vector>

#include "runtime/emulation/exchange_group.hpp"
#include "runtime/emulation/step_time.hpp"

namespace supernode::emulation {

class StepTraffic {
 public:
  virtual ~StepTraffic() = default;
  /// When each die has its rows. @param starts, ends [dies]
  virtual void exchange(Phase phase, int microbatch, int layer, std::span<const ModelTime> starts,
                        std::span<ModelTime> ends) = 0;
  /// What die `die` waited for in that exchange.
  virtual Terms waits(Phase phase, int microbatch, int layer, std::span<const ModelTime> starts, int die) = 0;
  /// Products of the experts, [dies].
  virtual void experts(int microbatch, int layer, std::span<ModelTime> durations) = 0;
  /// Rows that came to each die, [dies].
  virtual void received(int microbatch, int layer, std::span<double> rows) = 0;
};

/// @param group of all dies; outlives it, as all else does. @param share of the cores that exchange and experts have
std::unique_ptr<StepTraffic> recorded_traffic(const Machine& machine, const ModelShape& model, const StepSetup& setup,
                                              ExchangeGroup& group, std::span<const DieStep> steps, CoreShare share);
/// One die for all of setup.layout.dies.
std::unique_ptr<StepTraffic> even_traffic(const Machine& machine, const ModelShape& model, const StepSetup& setup,
                                          const ExpertLoad& load, const DieStep& step, CoreShare share);

}  // namespace supernode::emulation
