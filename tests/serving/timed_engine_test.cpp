// A die's steps are timed, and made slow or late, on a clock of the test's own.
#include "runtime/serving/workers/timed_engine.hpp"

#include <chrono>

#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace std::chrono_literals;

namespace {

/// Each look at the clock takes a tenth of a millisecond.
double now_s = 0;
WallTime ticking() { return {now_s += 1e-4}; }

/// A step takes 20 ms, half of them in the exchange.
class SteadyEngine : public StepEngine {
 public:
  std::unique_ptr<EngineState> make_state(int) override { return nullptr; }
  std::size_t state_bytes_per_token() const override { return 0; }
  StepOutcome step(std::span<const StepWork> works, RunTime) override {
    starts.push_back(now_s);
    now_s += 0.02;
    StepOutcome outcome;
    outcome.exchange = 10ms;
    outcome.tokens.resize(works.size());
    return outcome;
  }
  std::vector<double> starts;
};

struct Bench {
  explicit Bench(std::vector<Injection> injections) : engine(inner, std::move(injections), ticking) {}
  /// @returns how long it took, s
  double step(std::size_t tokens) {
    const std::vector<std::int32_t> prompt(tokens);
    const StepWork work{1, nullptr, prompt, {}};
    const double begun = now_s;
    engine.step(std::span(&work, tokens > 0 ? 1 : 0), RunTime{});
    return now_s - begun;
  }
  SteadyEngine inner;
  TimedEngine engine;
};

}  // namespace

TEST_CASE("steps with tokens are timed without their exchange") {
  Bench bench({});
  for (int i = 0; i < 3; ++i) bench.step(4);
  bench.step(0);
  const StepTimes times = bench.engine.step_times();
  CHECK(times.steps == 3);
  CHECK(times.median_s == Approx(0.01).margin(5e-4));
  CHECK(times.median_per_token_s == Approx(0.0025).margin(2e-4));
}

TEST_CASE("a slow die computes as many times as long, from its start to its end") {
  Bench bench({{.kind = InjectionKind::slow_rank, .factor = 3, .start_s = 0.015, .duration_s = 0.05}});
  CHECK(bench.step(1) == Approx(0.02).margin(1e-3));
  CHECK(bench.step(1) == Approx(0.04).margin(1e-3));  // 10 ms of exchange, and three times 10 ms
  CHECK(bench.step(1) == Approx(0.04).margin(1e-3));
  CHECK(bench.step(1) == Approx(0.02).margin(1e-3));
}

TEST_CASE("a die stalls once, before the first step behind the start") {
  Bench bench({{.kind = InjectionKind::stall_rank, .start_s = 0.01, .duration_s = 0.004}});
  CHECK(bench.step(1) == Approx(0.02).margin(1e-3));
  const double before = now_s;
  CHECK(bench.step(1) == Approx(0.024).margin(1e-3));
  CHECK(bench.inner.starts.back() - before >= 0.004);
  CHECK(bench.step(1) == Approx(0.02).margin(1e-3));
  CHECK(bench.engine.step_times().median_s == Approx(0.01).margin(5e-4));
}
