#pragma once
// The price of a step as the run's clock has it. Pure.

#include <span>
#include <vector>

#include "runtime/emulation/step_time.hpp"
#include "runtime/serving/record/step_record.hpp"

namespace supernode::serving {

struct PricedStep {
  emulation::StepTiming timing;
  std::vector<RunTime> ends;  ///< of each die
};

/// Prices a step by the starts of its dies relative to the first: equal steps cost the same, whenever they are.
/// @param steps [dies] @param timelines null, or gets a timeline for each die
/// @throws std::invalid_argument for a record that does not fit
PricedStep price_step(emulation::StepPricer& pricer, std::vector<StartedStep>&& steps,
                      std::vector<emulation::Timeline>* timelines = nullptr);

}  // namespace supernode::serving
