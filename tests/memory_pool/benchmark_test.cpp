// The benchmark itself: every operation, checked, and the hit-rate replay against a count by hand.
#include "memory_pool/benchmark.hpp"

#include <cmath>
#include <set>

#include "memory_pool/hit_rate.hpp"
#include "runtime/core/random.hpp"
#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

TEST_CASE("every operation of the benchmark finds its own blocks intact") {
  for (const std::string transport : {"auto", "rma"}) {
    PoolConfig config = small_pool(transport);
    config.capacity = {1 << 20};
    config.verify_every = 2;
    config.verify_below = {1024};
    const int clients = std::max(1, world().size() / 2);
    Benchmark benchmark(world(), clients, config);
    for (const std::string operation : {"get", "put", "lookup", "mixed"})
      for (const std::uint64_t bytes : {1, 1000, 30000}) {
        BenchCase bench;
        bench.operation = parse_bench_operation(operation);
        bench.block_bytes = bytes;
        bench.clients = clients;
        bench.iterations = 20;
        bench.warmup = 3;
        bench.batch = operation == "lookup" || operation == "get" ? 3 : 1;
        bench.keys = 8;
        bench.zipf_alpha = bytes == 1000 ? 1.2 : 0;
        bench.get_share = 0.5;
        const BenchResult result = benchmark.run(bench);
        CHECK(result.wrong == 0);
        CHECK(result.misses == 0);
        CHECK(result.ops_per_s > 0);
        if (world().rank() != 0) continue;
        CHECK(result.wall_us.size() == static_cast<std::size_t>(20 * clients));
        CHECK(result.memcpy_us.empty() == (operation == "lookup"));
        CHECK(result.mpi_us.empty() == (operation == "lookup"));
      }
  }
}

TEST_CASE("impossible benchmarks are refused in one line") {
  using Catch::Matchers::Contains;
  CHECK_THROWS_WITH(Benchmark(world(), world().size() + 1, small_pool("auto")), Contains("leave no owner"));
  CHECK_THROWS_WITH(parse_bench_operation("take"), Contains("known: get, put, lookup, mixed"));
  const int clients = std::max(1, world().size() - 1);
  Benchmark benchmark(world(), clients, small_pool("auto"));
  BenchCase bench;
  bench.clients = clients;
  bench.block_bytes = 1 << 20;
  CHECK_THROWS_WITH(benchmark.run(bench), Contains("pool.capacity"));
}

TEST_CASE("with ample capacity the replay hits all that was seen before, with little it hits less") {
  const Communicator self = world().split(world().rank(), 0);
  std::vector<std::vector<std::int64_t>> requests;
  std::set<std::int64_t> distinct;
  std::uint64_t asked = 0;
  Random draw(5);
  for (int i = 0; i < 300; ++i) {
    // Prefixes of 20 conversations: block b of conversation c is c * 100 + b.
    const auto conversation = static_cast<std::int64_t>(draw.below(20));
    std::vector<std::int64_t>& request = requests.emplace_back();
    for (std::int64_t b = 0; b < 1 + static_cast<std::int64_t>(draw.below(30)); ++b) {
      request.push_back(conversation * 100 + b);
      distinct.insert(request.back());
    }
    asked += request.size();
  }
  const HitRate ample = replay_blocks(self, requests, 2000), tight = replay_blocks(self, requests, 100);
  CHECK(ample.asked == asked);
  CHECK(ample.hits == asked - distinct.size());
  CHECK(ample.evictions == 0);
  CHECK(tight.hits < ample.hits);
  CHECK(tight.hits > 0);
}
