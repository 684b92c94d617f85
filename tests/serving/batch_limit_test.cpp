// The batch that keeps an objective, with made-up laws of how long an iteration lasts.
#include "runtime/serving/coordinator/batch_limit.hpp"

#include <algorithm>
#include <functional>

#include "runtime/core/random.hpp"
#include "runtime/core/statistics.hpp"
#include "tests/serving/fake_fleet.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;

namespace {

/// Iterations with as many requests as are allowed, each. @returns their durations, ms
std::vector<double> iterate(BatchLimit& limit, int count, const std::function<double(int)>& law,
                            double tokens_per_request = 1) {
  std::vector<double> durations;
  for (int i = 0; i < count; ++i) {
    const int batch = limit.limit(1000);
    durations.push_back(law(batch));
    limit.observe(batch, durations.back(), tokens_per_request);
  }
  return durations;
}

double p99(std::vector<double> durations) {
  std::sort(durations.begin(), durations.end());
  return quantile(durations, 0.99);
}

}  // namespace

TEST_CASE("the batch is the largest that keeps the objective, and grows with it") {
  const auto law = [](int batch) { return 5 + 0.2 * batch; };
  int last = 0;
  for (const double objective : {6.0, 10.0, 15.0, 50.0}) {
    BatchLimit limit(objective);
    CHECK(limit.limit(1000) == 1);
    const std::vector<double> durations = iterate(limit, 60, law);
    CHECK(*std::max_element(durations.begin(), durations.end()) <= objective);
    CHECK(limit.limit(1000) == Approx((objective - 5) / 0.2).epsilon(0.01).margin(1));
    CHECK(limit.limit(1000) > last);
    CHECK(limit.limit(3) == 3);
    last = limit.limit(1000);
  }
}

TEST_CASE("without an objective everything is allowed; where none can be kept, one request is") {
  CHECK(BatchLimit(0).limit(96) == 96);
  BatchLimit limit(1);
  iterate(limit, 50, [](int batch) { return 2 + 0.1 * batch; });
  CHECK(limit.limit(96) == 1);
}

TEST_CASE("one iteration in a hundred may exceed the objective when durations scatter, no more") {
  Random random(7, 0);
  const auto law = [&](int batch) {
    // About normal: the sum of twelve.
    double noise = -6;
    for (int i = 0; i < 12; ++i) noise += random.uniform();
    return 5 + 0.2 * batch + 0.5 * noise;
  };
  BatchLimit limit(20);
  iterate(limit, 200, law);
  const std::vector<double> durations = iterate(limit, 2000, law);
  CHECK(p99(durations) <= 20 * 1.01);
  // Not by being timid: 75 without noise, and three standard deviations are 8.
  CHECK(limit.limit(1000) >= 65);
}

TEST_CASE("a first iteration that is slow, and a rare one later, cost little") {
  const auto law = [](int batch) { return 5 + 0.2 * batch; };
  BatchLimit limit(15);
  limit.observe(1, 500, 1);
  iterate(limit, 60, law);
  CHECK(limit.limit(1000) == Approx(50).margin(1));
  limit.observe(50, 500, 1);
  iterate(limit, 150, law);
  CHECK(limit.limit(1000) >= 40);
}

TEST_CASE("the batch follows when iterations become longer, as contexts grow") {
  BatchLimit limit(15);
  iterate(limit, 300, [](int batch) { return 5 + 0.2 * batch; });
  iterate(limit, 400, [](int batch) { return 5 + 0.4 * batch; });
  CHECK(limit.limit(1000) == Approx(25).margin(2));
  iterate(limit, 400, [](int batch) { return 5 + 0.1 * batch; });
  CHECK(limit.limit(1000) == Approx(100).margin(6));
}

TEST_CASE("an iteration of several tokens may last as many times longer") {
  BatchLimit limit(10);
  const std::vector<double> durations = iterate(
      limit, 100, [](int batch) { return 5 + 0.2 * batch; }, 1.7);
  CHECK(*std::max_element(durations.begin(), durations.end()) <= 17);
  CHECK(limit.limit(1000) == Approx(60).margin(1));
}

TEST_CASE("a lucky first iteration of few requests lets nobody in who then stays") {
  BatchLimit limit(10);
  limit.observe(1, 16, 1);
  // 16 ms are within 10 ms a token if each gives 1.7 tokens; the first ones of a few requests gave 2.
  for (int i = 0; i < 3; ++i) limit.observe(1, 16, i == 0 ? 2 : 1.7);
  CHECK(limit.limit(100) == 1);
  for (int i = 0; i < 100; ++i) limit.observe(1, 16, 1.7);
  CHECK(limit.limit(100) == 2);
}

TEST_CASE("a run keeps its objective, and gives more tokens a second as it is loosened") {
  const auto serve = [](double objective_ms) {
    ServingConfig config;
    config.decode_dies = 2;
    config.max_decode_batch = 1000;
    config.decode_kv_tokens = 1'000'000;
    config.tpot_objective_ms = objective_ms;
    FakeFleet fleet(config, some_requests(600, 20, 40));
    fleet.iteration_span = [](std::size_t batch) { return 1ms + batch * 50us; };
    fleet.prefill_span = [](std::size_t) { return 100us; };
    RunTime last{};
    for (const ServedRequest& served : fleet.run()) {
      CHECK(served.ended.why == EndReason::length);
      last = std::max(last, served.record.finished);
    }
    std::vector<double> durations;
    for (const RunSpan span : fleet.iteration_spans) durations.push_back(to_ms(span));
    CHECK(p99(durations) <= (objective_ms > 0 ? objective_ms : 1e9));
    return last;
  };
  const RunTime tight = serve(2), loose = serve(4), looser = serve(8), none = serve(0);
  CHECK(loose < tight);
  CHECK(looser < loose);
  CHECK(none <= looser);
}
