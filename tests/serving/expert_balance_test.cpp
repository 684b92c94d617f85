// How evenly experts were used, as results tell it.
#include "runtime/serving/load/expert_balance.hpp"

#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using Catch::Matchers::Contains;

namespace {

BalanceSample sample(double at_s, double imbalance, double tokens, double step_s, std::uint64_t switched) {
  return {.at_s = at_s,
          .steps = 10,
          .imbalance = imbalance,
          .worst = 2 * imbalance,
          .tokens = tokens,
          .step_s = step_s,
          .bytes_away = 50 * tokens,
          .switched = switched};
}

}  // namespace

TEST_CASE("before are the steps before any change of places, after those behind the last") {
  BalanceFigures one;
  one.rebalancings = 2, one.experts_moved = 12, one.bytes_moved = 5000000, one.wall_s = 0.5, one.modelled_s = 0.25;
  one.samples = {sample(1, 2.0, 100, 1.0, 0), sample(2, 1.8, 300, 1.0, 0), sample(3, 1.5, 200, 1, 3),
                 sample(4, 1.4, 200, 1, 4),   sample(5, 1.2, 400, 1, 4),   sample(6, 0, 0, 0.5, 4)};
  const Json json = rebalancing_json({{"decode", 0, one}});
  CHECK_FALSE(json.contains("prefill"));
  const Json& decode = json["decode"];
  CHECK(decode["rebalancings"] == 2);
  CHECK(decode["experts_moved"] == 12);
  CHECK(decode["bytes_moved"] == 5000000);
  CHECK(decode["before"]["steps"] == 20);
  CHECK(decode["before"]["max_over_mean"].get<double>() == Approx(1.9));
  CHECK(decode["before"]["worst_layer_max_over_mean"].get<double>() == Approx(3.8));
  CHECK(decode["before"]["tokens_per_s"].get<double>() == Approx(200));
  CHECK(decode["before"]["card_to_card_bytes_per_token"].get<double>() == Approx(50));
  CHECK(decode["before"]["card_to_card_bytes_per_step"].get<double>() == Approx(1000));
  CHECK(decode["before"]["step_ms"].get<double>() == Approx(100));
  // Steps without rows have no balance.
  CHECK(decode["after"]["steps"] == 20);
  CHECK(decode["after"]["max_over_mean"].get<double>() == Approx(1.2));
  CHECK_THAT(rebalancing_text(json), Contains("decode: 2 rebalancings moved 12 experts, 5.0 MB") &&
                                         Contains("rows of the busiest die over the mean:     1.900     1.200"));
}

TEST_CASE("where experts changed places to the end, after is the last sample") {
  BalanceFigures figures;
  figures.samples = {sample(1, 2.0, 100, 1.0, 0), sample(2, 1.5, 100, 1.0, 1), sample(3, 1.25, 100, 1.0, 2)};
  const Json json = rebalancing_json({{"decode", 0, figures}});
  CHECK(json["decode"]["after"]["steps"] == 10);
  CHECK(json["decode"]["after"]["max_over_mean"].get<double>() == Approx(1.25));
}

TEST_CASE("instances of a role are taken together, and what never was is null") {
  BalanceFigures one, other;
  one.samples = {sample(1, 2.0, 100, 1.0, 0)};
  other.samples = {sample(1, 1.0, 100, 1.0, 0)};
  const Json json = rebalancing_json({{"prefill", 0, one}, {"prefill", 1, other}, {"decode", 0, {}}});
  CHECK(json["prefill"]["instances"] == 2);
  CHECK(json["prefill"]["before"]["max_over_mean"].get<double>() == Approx(1.5));
  CHECK(json["prefill"]["after"].is_null());
  CHECK(json["decode"]["before"].is_null());
  CHECK_THAT(rebalancing_text(json), Contains("1.500         -"));
  CHECK(rebalancing_json({}) == Json::object());
}

TEST_CASE("a table has a row for each sample") {
  BalanceFigures figures;
  figures.samples = {sample(1, 2.0, 100, 1.0, 0), sample(2, 1.5, 50, 1.0, 1)};
  const std::vector<SeriesTable> tables = balance_tables({{"decode", 3, figures}});
  REQUIRE(tables.size() == 1);
  CHECK(tables[0].name == "decode/expert_balance/3");
  CHECK(tables[0].shape == std::vector<std::size_t>{2, 8});
  CHECK(tables[0].columns.size() == 8);
  CHECK(tables[0].values == std::vector<double>{1, 10, 2, 4, 100, 1, 5000, 0, 2, 10, 1.5, 3, 50, 1, 2500, 1});
}
