#include "runtime/serving/record/priced_step.hpp"

#include <algorithm>
#include <utility>

namespace supernode::serving {

PricedStep price_step(emulation::StepPricer& pricer, std::vector<StartedStep>&& steps,
                      std::vector<emulation::Timeline>* timelines) {
  std::vector<emulation::DieStep> records;
  std::vector<ModelTime> starts;
  RunTime origin = RunTime::max();
  for (const StartedStep& step : steps) origin = std::min(origin, step.start);
  for (StartedStep& step : steps) {
    starts.push_back({to_seconds(step.start - origin)});
    records.push_back(std::move(step.step));
  }
  PricedStep priced;
  priced.timing = pricer.step_time(records, starts, timelines);
  // A step takes at least a nanosecond, so that what follows it is later.
  for (std::size_t die = 0; die < steps.size(); ++die)
    priced.ends.push_back(std::max(origin + run_span(priced.timing.ends[die].value), steps[die].start + RunSpan(1)));
  return priced;
}

}  // namespace supernode::serving
