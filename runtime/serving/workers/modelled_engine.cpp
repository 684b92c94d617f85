#include "runtime/serving/workers/modelled_engine.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/byte_stream.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/serving/record/step_log.hpp"
#include "runtime/serving/record/step_record.hpp"

namespace supernode::serving {
namespace {

constexpr int record_tag = 0, price_tag = 1;

}  // namespace

struct ModelledEngine::Gathered {
  WallTime begin, end;
  std::span<const std::byte> record;

  std::vector<std::byte> encode() const {
    ByteWriter to;
    to.reserve(2 * sizeof(double) + record.size());
    return to.put(begin.value).put(end.value).put_raw(record).take();
  }
  static Gathered decode(std::span<const std::byte> message) {
    ByteReader from(message);
    Gathered one;
    one.begin = {from.get<double>()};
    one.end = {from.get<double>()};
    one.record = from.get_raw(from.left());
    return one;
  }
};

ModelledEngine::ModelledEngine(StepEngine& inner, MessagePort& dies, int die, ModelledInstance modelled,
                               double deadline_s, std::optional<StepReporting> reporting,
                               std::vector<Injection> injections)
    : inner_(inner),
      dies_(dies),
      die_(die),
      modelled_(std::move(modelled)),
      // A little less than the coordinator's, which knows only who has not reported: this one names who did not come.
      deadline_s_(deadline_s * 7 / 8),
      reporting_(std::move(reporting)),
      injections_(std::move(injections)) {
  if (die_ == 0)
    pricer_ =
        std::make_unique<emulation::StepPricer>(modelled_.machine, modelled_.model, modelled_.setup, modelled_.dies);
}

ModelledEngine::~ModelledEngine() = default;

StepOutcome ModelledEngine::step(std::span<const StepWork> works, RunTime start) {
  const WallTime begin = wall_now();
  StepOutcome outcome = inner_.step(works, start);
  const WallTime end = wall_now();
  expect(outcome.record.has_value(), "an engine on a modelled clock keeps records");
  for (const StepWork& work : works)
    outcome.record->loads.insert(outcome.record->loads.end(), work.loads.begin(), work.loads.end());
  outcome.record->slowness = slowness_at(injections_, to_seconds(start - RunTime{}));
  const std::vector<std::byte> record = encode_step({start, std::move(*outcome.record)});
  outcome.record.reset();
  const WallTime origin = reporting_ ? reporting_->origin : WallTime{};
  std::vector<std::byte> mine = Gathered{begin - origin, end - origin, record}.encode();
  Price ours;
  if (die_ == 0) {
    const std::vector<Price> prices = price(collect(std::move(mine)));
    for (std::size_t die = 1; die < prices.size(); ++die) {
      ByteWriter message;
      message.put(prices[die].end.time_since_epoch().count()).put(prices[die].exchange.count());
      message.put(prices[die].computing_s).put(prices[die].mean_tokens);
      dies_.send(static_cast<int>(die), price_tag, message.take());
    }
    ours = prices.front();
  } else {
    dies_.send(0, record_tag, std::move(mine));
    ours = await_price();
  }
  outcome.end = ours.end;
  outcome.exchange = ours.exchange;
  if (ours.mean_tokens > 0) times_.add(ours.computing_s, ours.mean_tokens);
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
  std::vector<std::vector<std::byte>> messages(modelled_.dies.size());
  messages.front() = std::move(own);
  for (std::size_t missing = messages.size() - 1; missing > 0; --missing) {
    Message message = await([&] {
      std::string absent;
      for (std::size_t die = 1; die < messages.size(); ++die)
        if (messages[die].empty()) absent += fmt::format("{}{}", absent.empty() ? "" : ", ", die);
      return fmt::format("die 0 of its instance: no record of a step from die {}", absent);
    });
    std::vector<std::byte>& bytes = messages[static_cast<std::size_t>(message.source)];
    if (message.tag != record_tag || !bytes.empty())
      throw EnvironmentError(fmt::format("die {} of its instance sent two records of a step", message.source));
    bytes = std::move(message.bytes);
  }
  return messages;
}

ModelledEngine::Price ModelledEngine::await_price() {
  const Message message =
      await([&] { return fmt::format("die {} of its instance: no price of a step from die 0", die_); });
  ByteReader reader(message.bytes);
  const RunTime end{RunSpan(reader.get<RunSpan::rep>())};
  const RunSpan exchange(reader.get<RunSpan::rep>());
  const auto computing_s = reader.get<double>();
  const auto mean_tokens = reader.get<double>();
  return {end, exchange, computing_s, mean_tokens};
}

std::vector<ModelledEngine::Price> ModelledEngine::price(const std::vector<std::vector<std::byte>>& messages) {
  std::vector<Gathered> gathered;
  std::vector<StartedStep> steps;
  std::vector<StepReport::Die> dies;
  for (const std::vector<std::byte>& message : messages) {
    gathered.push_back(Gathered::decode(message));
    steps.push_back(decode_step(gathered.back().record));
    const emulation::AttentionWork work = steps.back().step.work();
    StepReport::Die& die = dies.emplace_back();
    die.start = steps.back().start;
    die.sequences = work.sequences;
    die.tokens = work.tokens;
    die.context = work.context;
  }
  std::vector<emulation::Timeline> timelines;
  const bool traced = reporting_ && reporting_->wanted.traced_step == step_;
  const PricedStep step = price_step(*pricer_, std::move(steps), traced ? &timelines : nullptr);
  add_totals(step.timing);

  const RunSpan exchange = run_span((step.timing.terms.of("dispatch") + step.timing.terms.of("combine")).value);
  double tokens = 0;
  for (const StepReport::Die& die : dies) tokens += die.tokens;
  std::vector<Price> prices;
  for (std::size_t die = 0; die < dies.size(); ++die) {
    dies[die].end = step.ends[die];
    prices.push_back({dies[die].end, std::min(exchange, dies[die].end - dies[die].start),
                      step.timing.computing[die].value, tokens / static_cast<double>(dies.size())});
  }
  if (reporting_) report(gathered, dies, exchange, timelines);
  ++step_;
  return prices;
}

void ModelledEngine::add_totals(const emulation::StepTiming& timing) {
  const char* stage = name_of(modelled_.setup.stage);
  totals_[fmt::format("{}: steps", stage)] += 1;
  if (modelled_.setup.joins_microbatches && timing.microbatches == 1)
    totals_[fmt::format("{}: steps in one microbatch", stage)] += 1;
  for (const emulation::Term& term : timing.terms) totals_[fmt::format("{}: {}", stage, term.name)] += term.time.value;
  for (const emulation::Term& term : timing.exchange)
    totals_[fmt::format("{}: exchange: {}", stage, term.name)] += term.time.value;
  in_exchanges_ += timing.in_exchanges;
}

void ModelledEngine::report(const std::vector<Gathered>& gathered, const std::vector<StepReport::Die>& dies,
                            RunSpan exchange, const std::vector<emulation::Timeline>& timelines) const {
  StepReport told;
  told.step = step_;
  told.dies = dies;
  told.exchange = exchange;
  std::vector<RunTime> starts, ends;
  for (std::size_t die = 0; die < dies.size(); ++die) {
    starts.push_back(dies[die].start);
    ends.push_back(dies[die].end);
    told.dies[die].wall_begin = gathered[die].begin;
    told.dies[die].wall_end = gathered[die].end;
    if (reporting_->wanted.records)
      told.dies[die].record.assign(gathered[die].record.begin(), gathered[die].record.end());
  }
  if (!timelines.empty()) told.timeline = step_timeline(timelines, starts, ends);
  told.wall_priced = wall_now() - reporting_->origin;
  reporting_->tell(told);
}

}  // namespace supernode::serving
