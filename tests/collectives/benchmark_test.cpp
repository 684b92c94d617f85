// The benchmark checks what it times, and its figures are those of the messages.
#include "collectives/benchmark.hpp"

#include <algorithm>

#include "collectives/algorithms.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode::collectives;
using namespace supernode::test;

TEST_CASE("every operation of every algorithm is right on every pattern and payload") {
  for (const AlgorithmEntry& entry : algorithms())
    for (const Operation operation : {Operation::dispatch, Operation::combine, Operation::roundtrip})
      for (const std::string& pattern : routing_patterns())
        for (const Payload payload : {Payload::int8, Payload::bf16, Payload::f32}) {
          BenchmarkCase bench;
          bench.operation = operation;
          bench.exchange = {.max_tokens = 6, .hidden = 70, .topk = 3, .num_experts = 10, .dispatch_payload = payload};
          bench.exchange.combine_payload = payload == Payload::f32 ? Payload::f32 : Payload::bf16;
          bench.exchange.algorithm = entry.name;
          bench.routing.pattern = pattern;
          bench.num_tokens = 6;
          bench.iterations = 3;
          bench.warmup = 1;
          const BenchmarkResult result = run_benchmark(world(), bench);
          CHECK(result.wrong == 0);
          CHECK(result.algorithm == entry.name);
          CHECK(result.wall_us.size() == 3);
          CHECK(*std::min_element(result.wall_us.begin(), result.wall_us.end()) > 0);
          CHECK(result.limit_us.size() == 3);
          CHECK(result.bytes_per_rank > 6u * 70 * (operation == Operation::combine ? 2 : 1));
          CHECK((result.busiest_bytes == 0) == (world().size() == 1));
        }
}

TEST_CASE("no tokens are a case too") {
  BenchmarkCase bench;
  bench.exchange = {.max_tokens = 1, .hidden = 8, .topk = 1, .num_experts = 2};
  bench.num_tokens = 0;
  bench.iterations = 2;
  const BenchmarkResult result = run_benchmark(world(), bench);
  CHECK(result.bytes_per_rank == 0);
  CHECK(result.wrong == 0);
}
