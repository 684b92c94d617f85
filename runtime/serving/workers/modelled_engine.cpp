#include "runtime/serving/workers/modelled_engine.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline_collectives.hpp"
#include "runtime/serving/wire/step_record.hpp"

namespace supernode::serving {

ModelledEngine::ModelledEngine(StepEngine& inner, const Communicator& instance, ModelledInstance modelled,
                               double deadline_s)
    : inner_(inner),
      instance_(instance),
      modelled_(std::move(modelled)),
      // A little less than the coordinator's, which knows only who has not reported: this one names who did not come.
      deadline_s_(deadline_s * 7 / 8) {
  if (instance_.rank() == 0)
    pricer_ =
        std::make_unique<emulation::StepPricer>(modelled_.machine, modelled_.model, modelled_.setup, modelled_.dies);
}

ModelledEngine::~ModelledEngine() = default;

StepOutcome ModelledEngine::step(std::span<const StepWork> works, RunTime start) {
  StepOutcome outcome = inner_.step(works, start);
  expect(outcome.record.has_value(), "an engine on a modelled clock keeps records");
  for (const StepWork& work : works)
    outcome.record->loads.insert(outcome.record->loads.end(), work.loads.begin(), work.loads.end());
  const std::vector<std::byte> mine = encode_step({start, std::move(*outcome.record)});
  outcome.record.reset();
  const auto records = gather_bytes(instance_, mine, deadline_s_, "the end of a step");
  std::vector<std::int64_t> priced;
  if (pricer_) priced = price(records);
  const std::vector<std::int64_t> ours = scatter(instance_, priced, 2, deadline_s_, "the price of a step");
  outcome.end = RunTime(RunSpan(ours[0]));
  outcome.exchange = RunSpan(ours[1]);
  return outcome;
}

std::vector<std::int64_t> ModelledEngine::price(const std::vector<std::vector<std::byte>>& records) {
  std::vector<emulation::DieStep> steps;
  std::vector<ModelTime> starts;
  std::vector<RunTime> began;
  for (const std::vector<std::byte>& record : records) {
    StartedStep started = decode_step(record);
    steps.push_back(std::move(started.step));
    began.push_back(started.start);
  }
  // Counted from the first start, so that equal steps have equal prices, whenever they are.
  const RunTime origin = *std::min_element(began.begin(), began.end());
  for (const RunTime start : began) starts.push_back({to_seconds(start - origin)});
  const emulation::StepTiming timing = pricer_->step_time(steps, starts);

  const char* stage = modelled_.setup.stage == emulation::Stage::decode ? "decode" : "prefill";
  totals_[fmt::format("{}: steps", stage)] += 1;
  for (const emulation::Term& term : timing.terms) totals_[fmt::format("{}: {}", stage, term.name)] += term.time.value;
  for (const emulation::Term& term : timing.exchange)
    totals_[fmt::format("{}: exchange: {}", stage, term.name)] += term.time.value;
  in_exchanges_ += timing.in_exchanges;

  const ModelTime exchange = timing.terms.of("dispatch") + timing.terms.of("combine");
  std::vector<std::int64_t> priced;
  for (std::size_t die = 0; die < steps.size(); ++die) {
    // A step takes at least a nanosecond, so that what follows it is later.
    const RunTime end = std::max(origin + run_span(timing.ends[die].value), began[die] + RunSpan(1));
    priced.push_back(end.time_since_epoch().count());
    priced.push_back(std::min(run_span(exchange.value), end - began[die]).count());
  }
  return priced;
}

}  // namespace supernode::serving
