#include "runtime/core/repetition.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/core/random.hpp"
#include "runtime/core/statistics.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;

namespace {

std::vector<double> noisy(int n, double spread, std::uint64_t seed) {
  std::vector<double> sample(static_cast<std::size_t>(n));
  Random random(seed);
  for (double& x : sample) x = 100 * (1 + spread * (random.uniform() - 0.5));
  return sample;
}

}  // namespace

TEST_CASE("the interval narrows with the square root of the sample") {
  CHECK(std::isinf(relative_ci_width(noisy(5, 1, 1))));
  CHECK(relative_ci_width(std::vector<double>(6, 3.0)) == 0);
  const double few = relative_ci_width(noisy(100, 0.5, 1)), many = relative_ci_width(noisy(10000, 0.5, 1));
  CHECK(few / many == Approx(10).epsilon(0.5));
}

TEST_CASE("the interval holds the median 95 times in 100") {
  int inside = 0;
  constexpr int trials = 2000;
  for (int trial = 0; trial < trials; ++trial) {
    std::vector<double> sample = noisy(40, 1, 1000 + trial);
    const Summary summary = summarize(sample);
    std::sort(sample.begin(), sample.end());
    // The interval is between order statistics; its width is what the benchmark asks about.
    const double half = 0.98 * std::sqrt(40.0);
    inside +=
        sample[static_cast<std::size_t>(20 - half)] <= 100 && 100 <= sample[static_cast<std::size_t>(20 + half) + 1];
    CHECK(relative_ci_width(sample) == Approx(2 * summary.ci95 / summary.p50));
  }
  CHECK(inside >= trials * 94 / 100);
}

TEST_CASE("a sample is enough when its interval is narrow, or its rounds are spent") {
  const Repetition repetition{.least = 20, .ci_width = 0.05, .most = 1000};
  CHECK_FALSE(enough_rounds(std::vector<double>(19, 1.0), repetition));
  CHECK(enough_rounds(std::vector<double>(20, 1.0), repetition));
  CHECK_FALSE(enough_rounds(noisy(100, 1, 1), repetition));
  CHECK(enough_rounds(noisy(1000, 100, 1), repetition));
  const Repetition fixed{.least = 7, .ci_width = 0};
  CHECK_FALSE(enough_rounds(noisy(6, 1, 1), fixed));
  CHECK(enough_rounds(noisy(7, 1, 1), fixed));
}

TEST_CASE("turns are long for short rounds") {
  CHECK(rounds_in_turn(0) == 32);
  CHECK(rounds_in_turn(3e-6) == 32);
  CHECK(rounds_in_turn(1e-3) == 8);
  CHECK(rounds_in_turn(0.015) == 4);
  CHECK(rounds_in_turn(0.02) == 1);
  CHECK(rounds_in_turn(5) == 1);
}

TEST_CASE("a paired ratio does not see what slows both down") {
  const std::vector<double> others = noisy(50, 0.8, 1);
  std::vector<double> times = others;
  for (double& x : times) x *= 1.25;
  const Summary ratio = paired_ratio(times, others);
  CHECK(ratio.p50 == Approx(1.25));
  CHECK(ratio.ci95 < 1e-9);
  CHECK(ratio.count == 50);
  CHECK(paired_ratio({}, {}).count == 0);
  CHECK(paired_ratio(std::vector<double>{0}, std::vector<double>{0}).p50 == 1);
}
