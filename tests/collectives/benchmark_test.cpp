// The benchmark checks what it times, and its figures are those of the messages.
#include "collectives/benchmark/benchmark.hpp"

#include <algorithm>
#include <numeric>

#include "collectives/algorithms.hpp"
#include "runtime/core/error.hpp"
#include "runtime/emulation/machine/machine.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::collectives;
using namespace supernode::test;

namespace {

/// All algorithms, three timed rounds.
BenchmarkCase small_case() {
  BenchmarkCase bench;
  bench.exchange = {.max_tokens = 6, .hidden = 70, .topk = 3, .num_experts = 10};
  bench.num_tokens = 6;
  bench.algorithms.clear();
  for (const AlgorithmName& algorithm : algorithms()) bench.algorithms.emplace_back(algorithm.name);
  bench.options.repetition = {.warmup = 1, .least = 3, .ci_width = 0};
  return bench;
}

long long row_sum(const Waits& waits, int row) {
  const auto n = static_cast<std::ptrdiff_t>(world().size());
  return std::accumulate(waits.bytes.begin() + row * n, waits.bytes.begin() + (row + 1) * n, 0ll);
}

}  // namespace

TEST_CASE("every operation of every algorithm is right on every pattern and payload") {
  for (const Operation operation : {Operation::dispatch, Operation::combine, Operation::roundtrip})
    for (const std::string& pattern : routing_patterns())
      for (const Payload payload : {Payload::int8, Payload::bf16, Payload::f32}) {
        BenchmarkCase bench = small_case();
        bench.operation = operation;
        bench.exchange.dispatch_payload = payload;
        bench.exchange.combine_payload = payload == Payload::f32 ? Payload::f32 : Payload::bf16;
        bench.routing.pattern = pattern;
        const std::vector<BenchmarkResult> results = run_benchmark(world(), bench);
        REQUIRE(results.size() == bench.algorithms.size());
        for (std::size_t i = 0; i < results.size(); ++i) {
          const BenchmarkResult& result = results[i];
          CHECK(result.wrong == 0);
          CHECK(result.algorithm == bench.algorithms[i]);
          CHECK(result.requested == bench.algorithms[i]);
          CHECK(result.rule.empty());
          CHECK(result.wall_us.size() == 3);
          CHECK(*std::min_element(result.wall_us.begin(), result.wall_us.end()) > 0);
          CHECK(result.limit_us.size() == 3);
          CHECK(result.turn_us.size() == results[0].turn_us.size());
          CHECK(result.to_best->turns == result.turn_us.size());
          CHECK(result.to_best->best == results[0].to_best->best);
          CHECK(result.rank_min_us <= result.rank_avg_us);
          CHECK(result.rank_avg_us <= result.rank_max_us);
          CHECK(result.bytes_per_rank == results[0].bytes_per_rank);
          CHECK(result.bytes_per_rank > 6u * 70 * (operation == Operation::combine ? 2 : 1));
          CHECK((result.busiest_bytes == 0) == (world().size() == 1));
          CHECK(result.buffer_bytes > result.bytes_per_rank);
          CHECK(result.resident_bytes > 0);
          CHECK_FALSE(result.model_us);
          CHECK_FALSE(result.waits);
        }
      }
}

TEST_CASE("no tokens are a case too") {
  BenchmarkCase bench = small_case();
  bench.exchange = {.max_tokens = 1, .hidden = 8, .topk = 1, .num_experts = 2};
  bench.num_tokens = 0;
  for (const BenchmarkResult& result : run_benchmark(world(), bench)) {
    CHECK(result.bytes_per_rank == 0);
    CHECK(result.wrong == 0);
  }
}

TEST_CASE("auto says what it took, and by which rule") {
  BenchmarkCase bench = small_case();
  bench.algorithms = {"auto"};
  const BenchmarkResult result = run_benchmark(world(), bench).at(0);
  CHECK(result.requested == "auto");
  CHECK(result.algorithm != "auto");
  CHECK_THAT(result.rule, Catch::Contains("rules:"));
}

TEST_CASE("one wrong element on one rank is found") {
  BenchmarkCase bench = small_case();
  bench.operation = Operation::roundtrip;
  // The last rank's experts get every token.
  bench.exchange.topk = 10;
  bench.options.injection = parse_injection("corrupt:" + std::to_string(world().size() - 1) + ":1", world().size());
  for (const BenchmarkResult& result : run_benchmark(world(), bench)) CHECK(result.wrong == 1);
  bench.options.check = false;
  for (const BenchmarkResult& result : run_benchmark(world(), bench)) CHECK(result.wrong == 0);
}

TEST_CASE("the matrices hold all bytes, and name the rank that came late") {
  const int late = world().size() - 1;
  for (const Operation operation : {Operation::dispatch, Operation::combine, Operation::roundtrip}) {
    BenchmarkCase bench = small_case();
    bench.operation = operation;
    bench.routing.pattern = "zipf";
    bench.options.record_waits = true;
    bench.options.injection = parse_injection("stall:" + std::to_string(late) + ":100:2", world().size());
    for (const BenchmarkResult& result : run_benchmark(world(), bench)) {
      REQUIRE(all_ranks(result.waits.has_value()));
      const Waits& waits = *result.waits;
      INFO(result.algorithm);
      if (world().size() > 1) {
        CHECK(waits.most_for == late);
        CHECK(waits.most_for_s > 0.05);
      }
      if (world().rank() > 0) {
        CHECK(waits.bytes.empty());
        continue;
      }
      long long largest = 0;
      for (int rank = 0; rank < world().size(); ++rank) largest = std::max(largest, row_sum(waits, rank));
      CHECK(largest == static_cast<long long>(result.bytes_per_rank));
      CHECK(std::accumulate(waits.seconds.begin(), waits.seconds.end(), 0.0) == Approx(waits.total_s));
    }
  }
}

TEST_CASE("the modelled time is that of the whole machine's view") {
  BenchmarkCase bench = small_case();
  const emulation::Machine machine = emulation::load_machine("cloudmatrix384");
  bench.machine = &machine;
  const auto dispatch = run_benchmark(world(), bench);
  bench.operation = Operation::roundtrip;
  const auto roundtrip = run_benchmark(world(), bench);
  for (std::size_t i = 0; i < dispatch.size(); ++i) {
    CHECK(*dispatch[i].model_us > machine.exchange.dispatch_start_us);
    CHECK(*dispatch[i].model_us == *dispatch[0].model_us);
    CHECK(*roundtrip[i].model_us > *dispatch[i].model_us + machine.exchange.combine_start_us);
  }
}

TEST_CASE("recorded tokens are the ones that travel") {
  BenchmarkCase bench = small_case();
  bench.exchange = {.max_tokens = 2, .hidden = 16, .topk = 2, .num_experts = 4};
  bench.num_tokens = 2;
  bench.routing.pattern = "file";
  bench.routing.recorded = std::make_shared<const RecordedRouting>(
      parse_recorded_routing(R"({"routing": [{"layer_index": 0, "expert_ids": [0, 3]}]})"
                             "\n"
                             R"({"routing": [{"layer_index": 0, "expert_ids": [1, 2]}]})",
                             "tokens.jsonl", -1));
  for (const BenchmarkResult& result : run_benchmark(world(), bench)) CHECK(result.wrong == 0);
  bench.exchange.num_experts = 5;
  CHECK_THROWS_WITH(run_benchmark(world(), bench), "tokens.jsonl: recorded with 4 experts, not 5");
}

TEST_CASE("tokens with padding among their choices travel as far as they have experts") {
  BenchmarkCase bench = small_case();
  bench.exchange = {.max_tokens = 2, .hidden = 16, .topk = 2, .num_experts = 4};
  bench.num_tokens = 2;
  bench.operation = Operation::roundtrip;
  bench.routing.pattern = "file";
  bench.routing.recorded = std::make_shared<const RecordedRouting>(
      parse_recorded_routing(R"({"routing": [{"layer_index": 0, "expert_ids": [3, -1]}]})"
                             "\n"
                             R"({"routing": [{"layer_index": 0, "expert_ids": [-1, -1]}]})",
                             "padded.jsonl", -1));
  // Each rank has one row, for expert 3: 16 floats and a record of 8 + 2 * 8 bytes there. That expert's rank sends a
  // row back to each.
  for (const BenchmarkResult& result : run_benchmark(world(), bench)) {
    CHECK(result.wrong == 0);
    CHECK(result.bytes_per_rank == 64 + 64 + 64u * static_cast<unsigned>(world().size()));
  }
}

TEST_CASE("bytes and bandwidths are those that one counts by hand") {
  BenchmarkCase bench = small_case();
  // Every rank's two tokens go to all experts, one on each rank: a row of 64 floats and a line of routing records.
  bench.exchange = {.max_tokens = 2, .hidden = 64, .topk = world().size(), .num_experts = world().size()};
  bench.num_tokens = 2;
  const auto ranks = static_cast<std::uint64_t>(world().size());
  const std::uint64_t records = (2 * (8 + 8 * ranks) + 63) / 64 * 64, message = records + 2 * 256;
  for (const BenchmarkResult& result : run_benchmark(world(), bench)) {
    CHECK(result.bytes_per_rank == ranks * message);
    CHECK(result.busiest_bytes == (ranks - 1) * message);
  }
  CHECK(gigabytes_per_second(3000, 1.5) == 2);  // 3 kB in 1.5 us
  CHECK(gigabytes_per_second(3000, 0) == 0);
}

TEST_CASE("plain MPI_Alltoallv is measured and checked alike") {
  BenchmarkOptions options;
  options.repetition = {.warmup = 1, .least = 3, .ci_width = 0};
  const BenchmarkResult good = run_plain_alltoallv(world(), 1000, options);
  CHECK(good.wrong == 0);
  CHECK(good.wall_us.size() == 3);
  CHECK(good.limit_us.size() == 3);
  CHECK(good.bytes_per_rank == 1000u * static_cast<unsigned>(world().size()));
  CHECK(good.busiest_bytes == 1000u * static_cast<unsigned>(world().size() - 1));
  options.injection = parse_injection("corrupt:0:1", world().size());
  CHECK(run_plain_alltoallv(world(), 1000, options).wrong == 1);
  options.injection = parse_injection("stall:0:100", world().size());
  options.record_waits = true;
  const BenchmarkResult late = run_plain_alltoallv(world(), 8, options);
  REQUIRE(all_ranks(late.waits.has_value()));
  CHECK((world().size() == 1 || late.waits->most_for == 0));
  CHECK_THROWS_WITH(run_plain_alltoallv(world(), 1ull << 31, {}), Catch::Contains("2 GiB"));
}
