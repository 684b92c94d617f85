// From records to figures.
#include "runtime/serving/load/metrics.hpp"

#include "tests/serving/fake_fleet.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;
using Catch::Matchers::Contains;

namespace {

RunDescription some_run() { return {"wall", 6, 2}; }

/// A request that came at 0, had its first token at 10 ms and a further one every 5 ms.
ServedRequest served_with(RequestId id, int tokens) {
  Request request;
  request.id = id;
  request.max_output = tokens;
  request.prompt.assign(60, 1);
  ServedRequest served{std::make_shared<const Request>(request), {}, {EndReason::length, ""}};
  RequestRecord& r = served.record;
  r.prefill_started = RunTime(1ms);
  r.first_token = r.decode_joined = RunTime(10ms);
  r.computed_tokens = 60;
  for (int t = 0; t < tokens; ++t) {
    r.tokens.push_back(t);
    r.token_times.push_back(RunTime(10ms + t * 5ms));
  }
  r.finished = r.token_times.back();
  return served;
}

}  // namespace

TEST_CASE("where payload is carried, results have its bytes and the times of both clocks") {
  RunDescription run = some_run();
  run.payload = {.exchange = {3000000, 1.5, 0.25}, .handover = {5, 0, 0}, .pool_load = {}, .pool_store = {7, 2, 1}};
  const Json results = serving_results({served_with(0, 2)}, {}, {}, run);
  CHECK(results["payload"]["exchange"] == Json{{"bytes", 3000000}, {"wall_s", 1.5}, {"modelled_s", 0.25}});
  CHECK(results["payload"]["handover"]["bytes"] == 5);
  CHECK(results["payload"]["pool_load"]["bytes"] == 0);
  CHECK(results["payload"]["pool_store"] == Json{{"bytes", 7}, {"wall_s", 2}, {"modelled_s", 1}});
  CHECK_THAT(serving_text(results, {}), Contains("Exchange:") && Contains("3.000     1.500     0.2500"));
}

TEST_CASE("results carry the names that users of serving benchmarks know") {
  ServingConfig config;
  FakeFleet fleet(config, some_requests(10, 100, 5, 0.01));
  const std::vector<ServedRequest> all = fleet.run();
  MetricsOptions options;
  options.percentiles = {50, 99};
  options.goodput_ms = parse_goodput({"ttft:1000", "tpot:0.001"});
  options.save_detailed = true;
  const Json results = serving_results(all, {}, options, some_run());
  CHECK(results["completed"] == 10);
  CHECK(results["failed"] == 0);
  CHECK(results["total_input_tokens"] == 1000);
  CHECK(results["total_output_tokens"] == 50);
  CHECK(results["pool"]["hit_tokens"] == 500);
  CHECK(results["pool"]["computed_tokens"] == 500);
  CHECK(results["goodput"] == 0.0);
  // Each objective by itself.
  CHECK(results["goodput_by"]["ttft"] == results["request_throughput"]);
  CHECK(results["goodput_by"]["tpot"] == 0.0);
  CHECK(results["npus"] == 3.0);
  double sum = 0;
  for (const auto& [part, value] : results["parts_ms"].items()) sum += value.get<double>();
  CHECK(sum == Approx(results["mean_e2el_ms"].get<double>()));
  CHECK(results["requests"].size() == 10);
  const std::string text = serving_text(results, options);
  CHECK_THAT(text, Contains("Serving Benchmark Result") && Contains("P99 TTFT (ms):") && Contains("Request goodput") &&
                       Contains("by tpot <= 0.001 ms alone"));
  CHECK_FALSE(results.contains("payload"));
  CHECK_THROWS_WITH(parse_goodput({"ttft"}), Contains("'ttft' is not"));
  CHECK_THROWS_WITH(parse_goodput({"speed:3"}), Contains("'speed:3'"));
}

TEST_CASE("NPUs are counted by the machine's dies") {
  CHECK(serving_results({served_with(0, 2)}, {}, {}, {"wall", 6, 3})["npus"] == 2.0);
}

TEST_CASE("decode steps have their figures, and an objective is held against their 99th percentile") {
  RunDescription run = some_run();
  const Json none = serving_results({}, {}, {}, run);
  CHECK(none["p99_step_ms"].is_null());
  CHECK_FALSE(none.contains("tpot_objective"));
  CHECK_THAT(serving_text(none, {}), !Contains("Decode Step"));
  // A batch that grows, with 1.5 tokens for a request.
  for (int i = 0; i <= 100; ++i) run.iterations.push_back({10 + 0.1 * i, i < 50 ? 2 : 4, 1.5});
  run.tpot_objective_ms = 14;
  Json results = serving_results({}, {}, {}, run);
  CHECK(results["mean_step_ms"].get<double>() == Approx(15));
  CHECK(results["p99_step_ms"].get<double>() == Approx(19.9));
  CHECK(results["decode_steps"]["count"] == 101);
  CHECK(results["decode_steps"]["tokens_per_request"].get<double>() == Approx(1.5));
  CHECK(results["tpot_objective"]["p99_step_ms_per_token"].get<double>() == Approx(19.9 / 1.5));
  CHECK(results["tpot_objective"]["kept"] == true);
  CHECK(results["tpot_objective"]["batch"].get<double>() == Approx(4));
  CHECK_THAT(serving_text(results, {}), Contains("P99 step by token (ms; objective 14):        13.27"));
  run.tpot_objective_ms = 13;
  CHECK(serving_results({}, {}, {}, run)["tpot_objective"]["kept"] == false);
}

TEST_CASE("guesses are counted where there are any") {
  RunDescription run = some_run();
  CHECK_FALSE(serving_results({served_with(0, 2)}, {}, {}, run).contains("mtp"));
  run.guesses = {40, 30};
  const Json results = serving_results({served_with(0, 2)}, {}, {}, run);
  CHECK(results["mtp"] == Json{{"drafted", 40}, {"accepted", 30}, {"acceptance", 0.75}});
  CHECK_THAT(serving_text(results, {}), Contains("Tokens guessed:") && Contains("75.00"));
}

TEST_CASE("a request of one token has no TPOT and no ITL, and meets no objective of them") {
  MetricsOptions options;
  options.goodput_ms = parse_goodput({"tpot:1000"});
  options.save_detailed = true;

  const Json ones = serving_results({served_with(0, 1), served_with(1, 1)}, {}, options, some_run());
  for (const char* key : {"mean_tpot_ms", "median_tpot_ms", "std_tpot_ms", "p99_tpot_ms", "mean_itl_ms", "p99_itl_ms"})
    CHECK(ones[key].is_null());
  CHECK(ones["mean_ttft_ms"] == 10.0);
  CHECK(ones["goodput"] == 0.0);
  CHECK(ones["requests"][0]["tpot_ms"].is_null());
  CHECK_THAT(serving_text(ones, options), Contains("Mean TPOT (ms):                              -"));

  const Json mixed = serving_results({served_with(0, 1), served_with(1, 1), served_with(2, 1), served_with(3, 3)}, {},
                                     options, some_run());
  CHECK(mixed["mean_tpot_ms"] == 5.0);
  CHECK(mixed["requests"][2]["tpot_ms"].is_null());
  CHECK(mixed["requests"][3]["tpot_ms"] == 5.0);
  // One good request in 20 ms.
  CHECK(mixed["goodput"] == Approx(50));
}

TEST_CASE("the die that is furthest above its peers is named; in text, when it is slow") {
  std::vector<DieSteps> dies;
  // Prefill steps are as long as their prompts: compared is the time of a token.
  dies.push_back({1, "prefill", 0, 0, {10, 3.0, 0.001}});
  dies.push_back({2, "prefill", 1, 0, {10, 0.3, 0.0011}});
  for (int die = 0; die < 4; ++die) dies.push_back({3 + die, "decode", 0, die, {50, 0.02 + 0.001 * die, 0.01}});
  CHECK(slowest_die(dies)->times_median < slow_from);
  RunDescription run = some_run();
  run.die_steps = dies;
  Json results = serving_results({}, {}, {}, run);
  CHECK(results["dies"].size() == 6);
  CHECK_THAT(serving_text(results, {}), !Contains("slow die"));

  run.die_steps[4].times.median_s = 0.0441;  // the others have 20, 21 and 23 ms
  results = serving_results({}, {}, {}, run);
  CHECK(results["slowest_die"]["rank"] == 5);
  CHECK(results["slowest_die"]["times_median"].get<double>() == Approx(2.1));
  CHECK_THAT(serving_text(results, {}), Contains("slow die: decode 0 die 2 (rank 5): 2.1 times the median\n"));

  // A few steps say nothing.
  run.die_steps[4].times.steps = 3;
  CHECK(serving_results({}, {}, {}, run)["slowest_die"]["rank"] != 5);

  // Without a peer that worked there is nothing to compare.
  run.die_steps = {dies[0], dies[2]};
  CHECK(serving_results({}, {}, {}, run)["slowest_die"].is_null());
  CHECK_FALSE(serving_results({}, {}, {}, some_run()).contains("dies"));
}

TEST_CASE("a failed request is counted, named, and in no latency") {
  ServedRequest failed = served_with(5, 1);
  failed.ended = {EndReason::failed, "the logits of its first token are not finite"};
  const Json results = serving_results({served_with(4, 3), failed}, {}, {}, some_run());
  CHECK(results["completed"] == 1);
  CHECK(results["failed"] == 1);
  CHECK(results["failures"] == Json::parse(R"([{"id": 5, "reason": "the logits of its first token are not finite"}])"));
  CHECK(results["total_output_tokens"] == 3);
}
