// Results of several runs side by side.
#include "runtime/serving/load/comparison.hpp"

#include <cmath>

#include "runtime/serving/load/metrics.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using Catch::Matchers::Contains;

namespace {

Json results(double ttft, double throughput) {
  return {{"clock", "modelled"},
          {"completed", 10},
          {"failed", 0},
          {"request_throughput", 1.0},
          {"goodput", nullptr},
          {"output_throughput", throughput},
          {"mean_ttft_ms", ttft},
          {"mean_tpot_ms", nullptr},
          {"mean_itl_ms", 5.0},
          {"p99_ttft_ms", 2 * ttft},
          {"p99_tpot_ms", nullptr},
          {"p99_itl_ms", 9.0},
          {"p99_e2el_ms", 90.0},
          {"pool", {{"hits", 4}, {"miss_reasons", Json::object()}}},
          {"requests", Json::array({1, 2})}};
}

}  // namespace

TEST_CASE("one run's results are left as they are") { CHECK(combine_repeats({results(3, 4)}) == results(3, 4)); }

TEST_CASE("repeats are means with intervals of Student's t, and all there") {
  std::vector<Json> runs{results(10, 100), results(12, 100), results(14, 100)};
  runs[1]["pool"]["miss_reasons"]["evicted"] = 6;
  runs[2]["completed"] = 12;
  runs[2]["mean_tpot_ms"] = 7.5;
  const Json combined = combine_repeats(runs);
  CHECK(combined["mean_ttft_ms"] == 12.0);
  CHECK(combined["output_throughput"] == 100.0);
  CHECK(combined["clock"] == "modelled");
  CHECK(combined["completed"].get<double>() == Approx(32 / 3.0));
  CHECK(combined["failed"].is_number_integer());
  CHECK(combined["pool"]["hits"] == 4);
  CHECK(combined["pool"]["miss_reasons"]["evicted"] == 6);  // of the runs that have it
  CHECK(combined["goodput"].is_null());
  CHECK(combined["mean_tpot_ms"] == 7.5);
  CHECK_FALSE(combined.contains("requests"));
  CHECK(combined["repeats"].size() == 3);
  CHECK(combined["repeats"][2]["requests"].size() == 2);
  // t(0.975, 2) = 4.3027; the deviation is 2.
  CHECK(combined["ci95"]["mean_ttft_ms"].get<double>() == Approx(4.30265 * 2 / std::sqrt(3)).epsilon(1e-4));
  CHECK(combined["ci95"]["output_throughput"] == 0.0);
  CHECK_FALSE(combined["ci95"].contains("mean_tpot_ms"));
  CHECK_THAT(intervals_text(combined), Contains("Means of 3 runs") && Contains("mean_ttft_ms:"));
  CHECK(intervals_text(results(3, 4)).empty());
}

TEST_CASE("the slow die of repeats is that of the means over them") {
  const auto run_with = [](double first_ms, double second_ms, std::uint64_t steps_of_third) {
    RunDescription run;
    run.dies = 3;
    run.die_steps = {{3, "decode", 0, 0, {20, first_ms / 1e3, 1e-3}},
                     {4, "decode", 0, 1, {20, second_ms / 1e3, 1e-3}},
                     {5, "decode", 0, 2, {steps_of_third, steps_of_third > 0 ? 4e-3 : 0, 1e-3}}};
    return serving_results({}, {}, {}, run);
  };
  const Json combined = combine_repeats({run_with(5, 4, 40), run_with(3, 8, 0)});
  CHECK(combined["dies"][0]["rank"] == 3);
  CHECK(combined["dies"][0]["median_step_ms"] == 4.0);
  CHECK(combined["dies"][2]["steps"] == 20.0);
  CHECK(combined["dies"][2]["median_step_ms"] == 4.0);  // of the run in which it had steps
  CHECK(combined["slowest_die"]["rank"] == 4);
  CHECK(combined["slowest_die"]["times_median"] == 1.5);
  CHECK(combined["repeats"][0]["slowest_die"]["rank"] == 3);
}

TEST_CASE("what a part contributes is the difference and the ratio to the run without it") {
  const Json base = results(10, 100);
  const Json ablation = ablation_json(base, {{"pool", results(25, 80)}});
  REQUIRE(ablation.size() == 1);
  CHECK(ablation[0]["without"] == "pool");
  CHECK(ablation[0]["mean_ttft_ms"] == 25.0);
  CHECK(ablation[0]["difference"]["mean_ttft_ms"] == 15.0);
  CHECK(ablation[0]["ratio"]["mean_ttft_ms"] == 2.5);
  CHECK(ablation[0]["ratio"]["output_throughput"] == 0.8);
  CHECK(ablation[0]["ratio"]["mean_tpot_ms"].is_null());
  CHECK_THAT(ablation_text(base, ablation),
             Contains("(as configured)") && Contains("25.00 (x 2.500)") && Contains("80.00 (x 0.800)"));

  Json steady = base, slower = base;
  steady["steady"] = {{"iteration_ms", 50.0}, {"tpot_ms", 30.0}, {"output_tokens_per_s_per_npu", 2000.0}};
  slower["steady"] = {{"iteration_ms", 60.0}, {"tpot_ms", 60.0}, {"output_tokens_per_s_per_npu", 1000.0}};
  const Json kept_full = ablation_json(steady, {{"mtp", slower}});
  CHECK(kept_full[0]["ratio"]["steady_tpot_ms"] == 2.0);
  CHECK_THAT(ablation_text(steady, kept_full), Contains("60.00 (x 1.200)") && Contains("tok/s by NPU"));
}

TEST_CASE("peaks list what each multiple of the load came to") {
  const Json peaks = peaks_json({{0.5, results(10, 100)}, {2, combine_repeats({results(30, 150), results(50, 150)})}});
  REQUIRE(peaks.size() == 2);
  CHECK(peaks[0]["load_factor"] == 0.5);
  CHECK(peaks[0]["p99_ttft_ms"] == 20.0);
  CHECK_FALSE(peaks[0].contains("ci95"));
  CHECK(peaks[1]["p99_ttft_ms"] == 80.0);
  CHECK(peaks[1]["ci95"]["p99_ttft_ms"].get<double>() > 0);
  CHECK_THAT(peaks_text(peaks), Contains("x 0.5") && Contains("x 2") && Contains("80.00"));
}
