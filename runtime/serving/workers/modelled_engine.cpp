#include "runtime/serving/workers/modelled_engine.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/byte_stream.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/serving/wire/step_record.hpp"

namespace supernode::serving {
namespace {

constexpr int record_tag = 0, price_tag = 1;

}  // namespace

ModelledEngine::ModelledEngine(StepEngine& inner, MessagePort& dies, int die, ModelledInstance modelled,
                               double deadline_s)
    : inner_(inner),
      dies_(dies),
      die_(die),
      modelled_(std::move(modelled)),
      // A little less than the coordinator's, which knows only who has not reported: this one names who did not come.
      deadline_s_(deadline_s * 7 / 8) {
  if (die_ == 0)
    pricer_ =
        std::make_unique<emulation::StepPricer>(modelled_.machine, modelled_.model, modelled_.setup, modelled_.dies);
}

ModelledEngine::~ModelledEngine() = default;

StepOutcome ModelledEngine::step(std::span<const StepWork> works, RunTime start) {
  StepOutcome outcome = inner_.step(works, start);
  expect(outcome.record.has_value(), "an engine on a modelled clock keeps records");
  for (const StepWork& work : works)
    outcome.record->loads.insert(outcome.record->loads.end(), work.loads.begin(), work.loads.end());
  std::vector<std::byte> record = encode_step({start, std::move(*outcome.record)});
  outcome.record.reset();
  Price ours;
  if (die_ == 0) {
    const std::vector<Price> prices = price(collect(std::move(record)));
    for (std::size_t die = 1; die < prices.size(); ++die) {
      ByteWriter message;
      message.put(prices[die].end.time_since_epoch().count());
      message.put(prices[die].exchange.count());
      dies_.send(static_cast<int>(die), price_tag, message.take());
    }
    ours = prices.front();
  } else {
    dies_.send(0, record_tag, std::move(record));
    ours = await_price();
  }
  outcome.end = ours.end;
  outcome.exchange = ours.exchange;
  return outcome;
}

template <class What>
Message ModelledEngine::await(What&& what) {
  const Deadline deadline(deadline_s_);
  SpinWait spin(Idle::bell);
  for (;;) {
    if (std::optional<Message> message = dies_.poll()) return std::move(*message);
    if (spin.turn() && deadline.expired()) throw_timeout(what(), deadline_s_);
  }
}

std::vector<std::vector<std::byte>> ModelledEngine::collect(std::vector<std::byte> own) {
  std::vector<std::vector<std::byte>> records(modelled_.dies.size());
  records.front() = std::move(own);
  for (std::size_t missing = records.size() - 1; missing > 0; --missing) {
    Message message = await([&] {
      std::string absent;
      for (std::size_t die = 1; die < records.size(); ++die)
        if (records[die].empty()) absent += fmt::format("{}{}", absent.empty() ? "" : ", ", die);
      return fmt::format("die 0 of its instance: no record of a step from die {}", absent);
    });
    std::vector<std::byte>& record = records[static_cast<std::size_t>(message.source)];
    if (message.tag != record_tag || !record.empty())
      throw EnvironmentError(fmt::format("die {} of its instance sent two records of a step", message.source));
    record = std::move(message.bytes);
  }
  return records;
}

ModelledEngine::Price ModelledEngine::await_price() {
  const Message message =
      await([&] { return fmt::format("die {} of its instance: no price of a step from die 0", die_); });
  ByteReader reader(message.bytes);
  const RunTime end{RunSpan(reader.get<RunSpan::rep>())};
  const RunSpan exchange(reader.get<RunSpan::rep>());
  return {end, exchange};
}

std::vector<ModelledEngine::Price> ModelledEngine::price(const std::vector<std::vector<std::byte>>& records) {
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

  const ModelTime exchange = timing.terms.of("dispatch") + timing.terms.of("combine");
  std::vector<Price> prices;
  for (std::size_t die = 0; die < steps.size(); ++die) {
    // A step takes at least a nanosecond, so that what follows it is later.
    const RunTime end = std::max(origin + run_span(timing.ends[die].value), began[die] + RunSpan(1));
    prices.push_back({end, std::min(run_span(exchange.value), end - began[die])});
  }
  return prices;
}

}  // namespace supernode::serving
