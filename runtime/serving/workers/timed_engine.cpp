#include "runtime/serving/workers/timed_engine.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "runtime/core/log.hpp"

namespace supernode::serving {
TimedEngine::TimedEngine(StepEngine& inner, std::vector<Injection> injections, WallTime (*now)())
    : inner_(inner), injections_(std::move(injections)), now_(now), start_(now()) {}

StepOutcome TimedEngine::step(std::span<const StepWork> works, RunTime start) {
  stall_where_due();
  const WallTime begun = now_();
  StepOutcome outcome = inner_.step(works, start);
  const double step_s = seconds_since(begun);
  double computing_s = std::max(0.0, step_s - to_seconds(outcome.exchange));
  const double slower_s = (slowness_at(injections_, (begun - start_).value) - 1) * computing_s;
  if (slower_s > 0) {
    while (seconds_since(begun) < step_s + slower_s) {
    }
    computing_s += slower_s;
  }
  std::size_t tokens = 0;
  for (const StepWork& work : works) tokens += work.tokens.size();
  if (tokens > 0) times_.add(computing_s, static_cast<double>(tokens));
  return outcome;
}

void TimedEngine::stall_where_due() {
  const auto due = std::find_if(injections_.begin(), injections_.end(), [this](const Injection& injection) {
    return injection.kind == InjectionKind::stall_rank && seconds_since(start_) >= injection.start_s;
  });
  if (due == injections_.end()) return;
  const Injection stall = *due;
  injections_.erase(due);  // once
  log(LogLevel::warning, "rank {} stalls for {} s, as injected", stall.rank, stall.duration_s);
  const WallTime begun = now_();
  while (seconds_since(begun) < stall.duration_s) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace supernode::serving
