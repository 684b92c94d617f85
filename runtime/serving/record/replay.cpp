#include "runtime/serving/record/replay.hpp"

#include <algorithm>
#include <stdexcept>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/serving/record/priced_step.hpp"

namespace supernode::serving {
namespace {

ReplayedTerm& term_of(std::vector<ReplayedTerm>& terms, std::string_view name) {
  const auto found =
      std::find_if(terms.begin(), terms.end(), [&](const ReplayedTerm& term) { return term.name == name; });
  return found != terms.end() ? *found : terms.emplace_back(ReplayedTerm{std::string(name)});
}

void add(std::vector<ReplayedTerm>& to, const emulation::Terms& terms, double ReplayedTerm::*machine) {
  for (const emulation::Term& term : terms) term_of(to, term.name).*machine += term.time.value;
}

void add(std::vector<ReplayedTerm>& to, const std::vector<ReplayedTerm>& terms) {
  for (const ReplayedTerm& term : terms) {
    ReplayedTerm& sum = term_of(to, term.name);
    sum.recorded_s += term.recorded_s;
    sum.replayed_s += term.replayed_s;
  }
}

std::vector<StartedStep> decode(const RecordedStep& recorded) {
  std::vector<StartedStep> steps;
  for (std::size_t die = 0; die < recorded.records.size(); ++die) {
    steps.push_back(decode_step(recorded.records[die]));
    if (steps.back().start != recorded.starts[die])
      throw EnvironmentError(fmt::format("die {} starts at another time in its record", die));
  }
  return steps;
}

double length_ms(const std::vector<RunTime>& starts, const std::vector<RunTime>& ends) {
  return to_ms(*std::max_element(ends.begin(), ends.end()) - *std::min_element(starts.begin(), starts.end()));
}

/// An instance on both machines.
class InstanceReplay {
 public:
  InstanceReplay(const RunHead& head, const RunHead::Instance& instance, const emulation::Machine& machine)
      : recorded_(head.machine, head.model, instance.setup, instance.dies),
        replayed_(machine, head.model, instance.setup, instance.dies) {}

  void add_step(const RecordedStep& step, ReplayedSteps& to) {
    const PricedStep before = price_step(recorded_, decode(step)), now = price_step(replayed_, decode(step));
    for (std::size_t die = 0; die < step.ends.size(); ++die) to.other_ends += before.ends[die] != step.ends[die];
    to.recorded_ms.push_back(length_ms(step.starts, step.ends));
    to.replayed_ms.push_back(length_ms(step.starts, now.ends));
    add(to.terms, before.timing.terms, &ReplayedTerm::recorded_s);
    add(to.terms, now.timing.terms, &ReplayedTerm::replayed_s);
    add(to.exchange, before.timing.exchange, &ReplayedTerm::recorded_s);
    add(to.exchange, now.timing.exchange, &ReplayedTerm::replayed_s);
  }

 private:
  emulation::StepPricer recorded_, replayed_;
};

/// @throws UsageError when the machine does not have the dies that the instances play.
void check_dies(const RunHead& head, const emulation::Machine& machine) {
  for (const RunHead::Instance& instance : head.instances) {
    const auto [first, last] = std::minmax_element(instance.dies.begin(), instance.dies.end());
    if (*first < 0 || *last >= machine.dies())
      throw UsageError(fmt::format("{} of the record plays die {}, {} has {} dies", to_string(instance.id),
                                   *first < 0 ? *first : *last, machine.source, machine.dies()));
  }
}

}  // namespace

ReplayedSteps& ReplayedSteps::operator+=(const ReplayedSteps& other) {
  recorded_ms.insert(recorded_ms.end(), other.recorded_ms.begin(), other.recorded_ms.end());
  replayed_ms.insert(replayed_ms.end(), other.replayed_ms.begin(), other.replayed_ms.end());
  add(terms, other.terms);
  add(exchange, other.exchange);
  other_ends += other.other_ends;
  return *this;
}

std::vector<ReplayedInstance> replay(RecordReader& record, const emulation::Machine& machine) {
  const RunHead& head = record.head();
  check_dies(head, head.machine);
  check_dies(head, machine);
  std::vector<ReplayedInstance> replayed;
  for (const RunHead::Instance& instance : head.instances) {
    ReplayedInstance& result = replayed.emplace_back();
    result.id = instance.id;
    result.dies = static_cast<int>(instance.dies.size());
    std::int64_t step = -1;
    const auto damaged = [&](const std::exception& error) {
      const std::string where = step < 0 ? "" : fmt::format(", step {}", step);
      return UsageError(fmt::format("{}: {}{}: {}", record.path(), to_string(instance.id), where, error.what()));
    };
    try {
      InstanceReplay both(head, instance, machine);
      for (step = 0; step < record.steps(instance.id); ++step) both.add_step(record.next(instance.id), result.steps);
    } catch (const std::invalid_argument& error) {
      throw damaged(error);
    } catch (const EnvironmentError& error) {
      throw damaged(error);
    }
  }
  return replayed;
}

}  // namespace supernode::serving
