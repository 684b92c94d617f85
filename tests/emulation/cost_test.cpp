// Operators, links, storage, streams, model shapes, expert load.
#include <cmath>
#include <limits>
#include <vector>

#include "runtime/core/error.hpp"
#include "runtime/core/json.hpp"
#include "runtime/emulation/expert_load.hpp"
#include "runtime/emulation/machine/links.hpp"
#include "runtime/emulation/machine/storage.hpp"
#include "runtime/emulation/machine/streams.hpp"
#include "runtime/emulation/model_shape.hpp"
#include "runtime/emulation/operators.hpp"
#include "runtime/emulation/validation/published.hpp"
#include "tests/emulation/shipped.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;
using Catch::Matchers::Contains;

namespace {

/// `cost` over sizes 0 .. about 1e9: zero at `floor`, never falling, no jump larger than its neighbourhood explains.
template <class Cost>
void check_monotone_continuous(Cost cost, double floor) {
  CHECK(cost(0) == Approx(floor).margin(1e-15));
  double last = cost(0);
  for (double size = 1e-3; size < 1e9; size *= 1.3) {
    const double here = cost(size), beside = cost(size * (1 + 1e-9));
    CHECK(here >= last);
    CHECK(beside - here <= 1e-6 * here + 1e-15);
    last = here;
  }
}

}  // namespace

TEST_CASE("operators grow with size, without jumps, from nothing") {
  check_monotone_continuous([](double m) { return gemm_time(cm(), {1, m, 4096, 7168, true}).value; }, 0);
  check_monotone_continuous(
      [](double n) {
        return gemm_time(cm(), {4, 64, n, 7168, true}).value;
      },
      gemm_time(cm(), {4, 64, 0, 7168, true}).value);
  check_monotone_continuous([](double flops) { return attention_time(cm(), flops * 1e6, 1e6).value; },
                            attention_time(cm(), 0, 1e6).value);
  check_monotone_continuous([](double bytes) { return vector_time(cm(), bytes).value; }, 0);
}

TEST_CASE("operators have the right units and limits") {
  Machine machine = cm();
  // One second's worth of each resource.
  CHECK(vector_time(machine, 1600e9 * machine.die.vector_efficiency).value == Approx(1));
  CHECK(attention_time(machine, 376e12 * machine.die.attention_efficiency, 0).value == Approx(1));
  CHECK(start_time(machine, 3).us() == Approx(3 * machine.die.operator_start_us));
  // bf16 has half the peak and twice the bytes.
  const Gemm int8{1, 4096, 4096, 4096, true}, bf16{1, 4096, 4096, 4096, false};
  CHECK(gemm_time(machine, bf16).value > 1.8 * gemm_time(machine, int8).value);
  // A stream with a part of the cores takes as much longer.
  CHECK(gemm_time(machine, int8, {0.5, 0.5}).value == Approx(2 * gemm_time(machine, int8).value));
  // Groups add up.
  CHECK(gemm_time(machine, {8, 100, 4096, 7168, true}).value ==
        Approx(8 * gemm_time(machine, {1, 100, 4096, 7168, true}).value));
  // Infinite memory bandwidth leaves the arithmetic.
  set(machine, "die.memory_gbps", 1e6);
  set(machine, "die.memory_efficiency", 1);
  CHECK(gemm_time(machine, int8).value ==
        Approx(2 * std::pow(4096., 3) / (752e12 * machine.die.gemm_efficiency)).epsilon(0.01));
}

TEST_CASE("links: latency at zero bytes, bandwidth at many, farther is slower") {
  for (const Access access : {Access::read, Access::write}) {
    for (const Memory memory : {Memory::die, Memory::host}) {
      for (const int hop : {1, 2})
        check_monotone_continuous([&](double bytes) { return link_time(cm(), access, memory, hop, bytes).value; },
                                  link_latency(cm(), access, memory, hop).value);
      CHECK(link_gbps(cm(), access, memory, 2) < link_gbps(cm(), access, memory, 1));
      CHECK(link_gbps(cm(), access, memory, 1) < cm().fabric_gbps());
      CHECK(link_latency(cm(), access, memory, 2) > link_latency(cm(), access, memory, 1));
    }
  }
  CHECK(link_gbps(cm(), Access::read, Memory::die, 0) == Approx(270));
  CHECK(link_time(cm(), Access::read, Memory::die, 0, 270e9).value == Approx(1).epsilon(1e-6));
}

TEST_CASE("switches of the second tier") {
  CHECK(switch_plan(cm(), 48).logical_switches == 56);
  CHECK(switch_plan(cm(), 48).utilisation == Approx(1));
  CHECK(switch_plan(cm(), 1).logical_switches == 7);
  for (int nodes = 1; nodes < 48; ++nodes)
    CHECK(switch_plan(cm(), nodes).logical_switches <= switch_plan(cm(), nodes + 1).logical_switches);
}

TEST_CASE("storage: nothing costs nothing, more costs more, slower networks cost more") {
  for (const PoolNetwork network : {PoolNetwork::fabric, PoolNetwork::vpc})
    check_monotone_continuous([&](double bytes) { return pool_read_time(cm(), network, bytes, 1e5).value; }, 0);
  CHECK(pool_read_time(cm(), PoolNetwork::vpc, 1e9, 1e5) > pool_read_time(cm(), PoolNetwork::fabric, 1e9, 1e5));
  // The software path, not the link, sets the rate of small pieces.
  CHECK(pool_read_time(cm(), PoolNetwork::fabric, 1e9, 1e4) >
        5.0 * pool_read_time(cm(), PoolNetwork::fabric, 1e9, 1e5));
  CHECK(ssd_read_time(cm(), 10e9).value == Approx(1));
  CHECK(object_store_time(cm(), 1e9, 8).value == Approx(8 * object_store_time(cm(), 1e9, 1).value));
  CHECK(warm_load_time(cm(), 0).value == 0);
  const auto pool = model_store_costs(cm(), ModelStore::pool, 671e9, 8, 8);
  const auto local = model_store_costs(cm(), ModelStore::local_dram, 671e9, 8, 8);
  CHECK(pool.hit_rate == 1);
  CHECK(local.hit_rate == Approx(0.125));
  CHECK(local.cold_start.value == Approx(8 * pool.cold_start.value));
  CHECK(pool.average_switch < local.average_switch);
}

TEST_CASE("a timeline keeps streams in order and waits for events") {
  Timeline line({"a", "b"});
  const int first = line.add("first", 0, {2});
  const int second = line.add("second", 1, {1}, {first});
  const int third = line.add("third", 0, {3});
  const int fourth = line.add("fourth", 1, {1}, {third, second});
  CHECK(line.tasks()[static_cast<std::size_t>(second)].begin.value == 2);
  CHECK(line.tasks()[static_cast<std::size_t>(third)].begin.value == 2);
  CHECK(line.tasks()[static_cast<std::size_t>(fourth)].begin.value == 5);
  CHECK(line.end().value == 6);
  CHECK(line.busy(0).value == 5);
  CHECK_THROWS_AS(line.add("x", 2, {1}), std::invalid_argument);
  CHECK_THROWS_AS(line.add("x", 0, {1}, {9}), std::invalid_argument);
  const Json trace = parse_json(chrome_trace({{"die", &line}}), "trace");
  REQUIRE(trace["traceEvents"].size() == 3 + 4);
  CHECK(trace["traceEvents"][4]["name"] == "second");
  CHECK(trace["traceEvents"][4]["ts"] == 2e6);
  CHECK(trace["traceEvents"][4]["dur"] == 1e6);
  CHECK(trace["traceEvents"][4]["tid"] == 1);
}

TEST_CASE("DeepSeek-R1's sizes") {
  const ModelShape model = load_model_shape("deepseek-r1");
  CHECK(model.name == "deepseek-r1");
  CHECK(model.kv_bytes_per_token() == 70272);
  CHECK(model.weights() == Approx(671e9).epsilon(0.01));
  CHECK(model.attention_weights() == Approx(187.1e6).epsilon(0.001));
}

TEST_CASE("a bad model file is refused with its key") {
  CHECK_THROWS_WITH(parse_model_shape("{}", "c.json"), Contains("c.json: 'num_hidden_layers' is missing"));
  CHECK_THROWS_WITH(parse_model_shape("[]", "c.json"), Contains("not a JSON object"));
  CHECK_THROWS_WITH(parse_model_shape(R"({"num_hidden_layers": -1})", "c.json"), Contains("'num_hidden_layers' is -1"));
  CHECK_THROWS_WITH(parse_model_shape(R"({"num_hidden_layers": "x"})", "c.json"), Contains("not a number"));
  CHECK_THROWS_AS(load_model_shape("no-such-model"), UsageError);
}

TEST_CASE("copies go where the load per copy is largest") {
  const std::vector<double> loads{8, 1, 1, 2};
  CHECK(replicate(loads, 4) == std::vector<int>{1, 1, 1, 1});
  CHECK(replicate(loads, 6) == std::vector<int>{3, 1, 1, 1});
  CHECK(placed_skew(loads, 4, 4) == Approx(8 / 3.0));
  CHECK(placed_skew(loads, 4, 1) == Approx(1));
  CHECK(placed_skew(loads, 6, 6) < placed_skew(loads, 4, 4));
}

TEST_CASE("skew: even load has none, drift and small numbers add some, copies take some away") {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(expert_skew({}, 288, 288, infinity, infinity) == Approx(1));
  CHECK(expert_skew({{}, 0.3, 0}, 288, 288, infinity, infinity) == Approx(1 + 0.3 * expected_maximum(288)));
  CHECK(expert_skew({{}, 0, 1.2}, 288, 288, infinity, 16) == Approx(1 + 0.3 * expected_maximum(288)));
  CHECK(expert_skew({{}, 0.3, 0}, 288, 32, infinity, infinity) ==
        Approx(1 + 0.1 * expected_maximum(32)));  // nine slots a die
  CHECK(expert_skew({}, 288, 288, 100, infinity) > 1.2);
  const ExpertLoad zipf = zipf_load(256, 0.8);
  CHECK(expert_skew(zipf, 256, 256, infinity, infinity) > 5);
  CHECK(expert_skew(zipf, 288, 288, infinity, infinity) < 0.5 * expert_skew(zipf, 256, 256, infinity, infinity));
  CHECK(expected_maximum(1) == 0);
  CHECK(expected_maximum(2) == Approx(0.589).epsilon(0.01));
  CHECK(expected_maximum(288) == Approx(2.85).epsilon(0.01));
}

TEST_CASE("recorded loads are checked") {
  const ExpertLoad load = parse_expert_load(R"({"logical_count": [[0, 0], [3, 1]]})", "l.json");
  CHECK(load.layers == std::vector<std::vector<double>>{{3, 1}});
  CHECK_THROWS_WITH(parse_expert_load("{}", "l.json"), Contains("l.json: expected"));
  CHECK_THROWS_WITH(parse_expert_load(R"({"logical_count": [[1, -1]]})", "l.json"), Contains("-1 is not a count"));
  CHECK_THROWS_WITH(parse_expert_load(R"({"logical_count": [[1, 1], [1]]})", "l.json"), Contains("2 and 1 experts"));
  CHECK_THROWS_WITH(parse_expert_load(R"({"logical_count": [[0]]})", "l.json"), Contains("no layer"));
}

TEST_CASE("published tables are read strictly") {
  const PublishedTable table("# c\na,b\n1,\n2,x\n", "t.csv");
  CHECK(table.rows() == 2);
  CHECK(table.number(0, "a") == 1);
  CHECK(table.empty(0, "b"));
  CHECK_THROWS_WITH(table.number(1, "b"), Contains("t.csv:4: b = 'x' is not a number"));
  CHECK_THROWS_WITH(table.text(0, "c"), Contains("no column 'c'"));
  CHECK_THROWS_WITH(PublishedTable("a,b\n1\n", "t.csv"), Contains("t.csv:2: 1 fields, 2 expected"));
  CHECK_THROWS_WITH(PublishedTable("# only\n", "t.csv"), Contains("no column names"));
}
