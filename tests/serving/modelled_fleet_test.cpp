// The fleet on the modelled clock over a port in memory: no mpirun.
#include "runtime/serving/fleet/modelled_fleet.hpp"

#include "runtime/core/error.hpp"
#include "runtime/serving/coordinator/arrivals.hpp"
#include "tests/serving/fake_fleet.hpp"
#include "tests/serving/fake_port.hpp"
#include "tests/serving/test_clock.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;
using Catch::Matchers::Contains;

namespace {

/// Two prefill instances of a die (ranks 1, 2), a decode die (rank 3), a cache host (rank 4).
ServingConfig some_config() {
  ServingConfig config;
  config.prefill_instances = 2;
  config.prefill_dies = 1;
  config.decode_instances = 1;
  config.decode_dies = 1;
  config.cache_ranks = 1;
  config.context_block_tokens = 4;
  return config;
}

ModelledFleetOptions some_options() {
  ModelledFleetOptions options;
  options.machine = emulation::load_machine("cloudmatrix384");
  options.kv_bytes_per_token = 1000;
  options.model_name = "model";
  ModelledPoolConfig pool;
  pool.owners = {4};
  pool.capacity_bytes = 1'000'000;
  pool.block_tokens = 4;
  pool.block_bytes = 4000;
  options.pool = pool;
  return options;
}

using Prompt = std::vector<std::int32_t>;

std::shared_ptr<const Request> request_of(RequestId id, Prompt prompt = {1, 2, 3, 4, 5, 6}) {
  Request request;
  request.id = id;
  request.max_output = 3;
  request.prompt = std::move(prompt);
  return std::make_shared<const Request>(request);
}

struct Fixture {
  explicit Fixture(std::vector<Request> requests = {}, ModelledFleetOptions with = some_options())
      : arrivals(std::move(requests)), options(std::move(with)) {}

  ServingConfig config = some_config();
  FakePort port;
  Arrivals arrivals;
  ModelledFleetOptions options;
  ModelledFleet fleet{config, arrivals, port, 1, options, (test_now_s = 0, running_clock)};

  void prefill(int instance, RequestId request, RunTime now, const Prompt& prompt) {
    prefill(instance, request, now, static_cast<int>(prompt.size()), prompt);
  }
  void prefill(int instance, RequestId request, RunTime now, int count = 6, Prompt prompt = {1, 2, 3, 4, 5, 6}) {
    const Work work{request, 0, count, Work::Beginning{request_of(request, std::move(prompt)), {0, 0}}};
    fleet.perform(StartStep{{emulation::Stage::prefill, instance}, {{work}}}, now);
  }
  void decode(RunTime now) { fleet.perform(StartStep{{emulation::Stage::decode, 0}, {{}}}, now); }
  void prefilled(int rank, RequestId request, RunTime end, int hits = 0) {
    prefilled(rank, request, end, hits, 6 - hits);
  }
  void prefilled(int rank, RequestId request, RunTime end, int hits, int computed, SampledToken token = 7) {
    PrefillResult result;
    result.request = request;
    result.first_token = token;
    result.hit_tokens = hits;
    result.computed_tokens = computed;
    port.arrive(rank, encode(PrefillReport{{result}}, end));
  }
  void decoded(RunTime end) { port.arrive(3, encode(DecodeReport{}, end)); }
  /// The order that a prefill die got last.
  StepOrder order(int rank) const {
    StepOrder last;
    for (const FakePort::Sent& sent : port.sent)
      if (sent.to == rank && sent.tag == static_cast<int>(MessageKind::step))
        last = std::get<StepOrder>(decode_order(sent.bytes).what);
    return last;
  }
};

RunTime at(std::int64_t us) { return RunTime(std::chrono::microseconds(us)); }

}  // namespace

TEST_CASE("reports come in modelled order, whatever the order in which they are made") {
  Fixture f;
  f.prefill(0, 1, at(0));
  f.prefill(1, 2, at(0));
  f.decode(at(0));
  f.decoded(at(300));
  f.prefilled(2, 2, at(200));
  f.prefilled(1, 1, at(100));
  for (const int us : {100, 200, 300}) CHECK(f.fleet.next().time == at(us));
  CHECK(f.fleet.quiet());
}

TEST_CASE("an event waits for every step that began before it") {
  Fixture f;
  f.prefill(0, 1, at(0));
  f.decode(at(50));
  f.prefilled(1, 1, at(40));
  // At 40 us the prefill ends; the iteration that begins at 50 us cannot end sooner.
  CHECK(f.fleet.next().time == at(40));
  f.prefill(1, 2, at(60));
  f.decoded(at(70));
  CHECK_THROWS_AS(f.fleet.next(), TimeoutError);  // the second batch may have ended at 65 us
  f.prefilled(2, 2, at(65));
  CHECK(f.fleet.next().time == at(65));
  CHECK(f.fleet.next().time == at(70));
}

TEST_CASE("arrivals are events among the others") {
  std::vector<Request> requests = some_requests(2, 4, 1);
  requests[0].arrival_s = 0;
  requests[1].arrival_s = 150e-6;
  Fixture f(requests);
  CHECK(std::holds_alternative<Arrived>(f.fleet.next().what));
  f.prefill(0, 1, at(0));
  f.prefilled(1, 1, at(100));
  CHECK(std::holds_alternative<PrefillReported>(f.fleet.next().what));
  const Event second = f.fleet.next();
  CHECK(std::holds_alternative<Arrived>(second.what));
  CHECK(second.time == at(150));
  CHECK(f.fleet.quiet());
}

TEST_CASE("KV arrives when the RDMA ports have carried it, and not before its die has it") {
  Fixture f;
  f.prefill(0, 1, at(0));
  f.prefill(1, 2, at(0));
  f.prefilled(1, 1, at(10));
  f.prefilled(2, 2, at(10));
  for (const RequestId request : {1, 2}) {
    CHECK(f.fleet.next().time == at(10));
    f.fleet.perform(ExpectKv{request_of(request), {0, 0}, 6, 7}, at(10));
  }
  CHECK_THROWS_AS(f.fleet.next(), TimeoutError);
  f.port.arrive(3, encode(KvReport{2}, at(0)));
  CHECK_THROWS_AS(f.fleet.next(), TimeoutError);  // request 1 is ahead of it
  f.port.arrive(3, encode(KvReport{1}, at(0)));
  SharedPorts ports(f.options.machine, f.options.network, 3, 1);
  for (const RequestId request : {1, 2}) {
    const Event event = f.fleet.next();
    CHECK(std::get<KvArrived>(event.what).request == request);
    // Both go into the same die: the second waits for the first.
    CHECK(event.time == ports.handover(static_cast<int>(request) - 1, 2, 6000, at(10)));
  }
}

TEST_CASE("pieces of a prompt go to the decode die, and into the pool, as they are done") {
  Fixture f;
  f.prefill(0, 1, at(0), 4);
  f.prefilled(1, 1, at(100'000), 0, 4, std::nullopt);
  CHECK(f.fleet.next().time == at(100'000));
  // Long after, when the first piece has been carried and stored, its block is there for others.
  f.fleet.perform(StartStep{{emulation::Stage::prefill, 0}, {{{1, 4, 4, {}}}}}, at(200'000));
  f.prefill(1, 2, at(200'000));
  CHECK(f.order(2).items[0].begins->granted_tokens == 4);
  CHECK_FALSE(f.order(1).items[0].begins);
  f.prefilled(2, 2, at(300'000), 4, 2);
  f.prefilled(1, 1, at(300'000), 0, 2);
  for (int report = 0; report < 2; ++report) CHECK(f.fleet.next().time == at(300'000));
  f.fleet.perform(ExpectKv{request_of(1), {0, 0}, 6, 7}, at(300'000));
  f.port.arrive(3, encode(KvReport{1}, at(0)));
  // Only what the second piece added is still on its way.
  SharedPorts ports(f.options.machine, f.options.network, 3, 1);
  CHECK(f.fleet.next().time == ports.handover(0, 2, 2000, at(300'000)));
}

TEST_CASE("KV of a request that ended between two pieces has come when its last piece has") {
  Fixture f;
  f.prefill(0, 1, at(0), 4);
  f.prefilled(1, 1, at(10), 0, 4, std::nullopt);
  CHECK(f.fleet.next().time == at(10));
  f.fleet.perform(ExpectKv{request_of(1), {0, 0}, 4, 0}, at(90'000));
  f.port.arrive(3, encode(KvReport{1}, at(0)));
  const Event event = f.fleet.next();
  CHECK(std::get<KvArrived>(event.what).request == 1);
  CHECK(event.time == at(90'000));
  CHECK(f.fleet.quiet());
}

TEST_CASE("what the pool has is granted at the modelled time of the order") {
  Fixture f;
  f.prefill(0, 1, at(0));
  CHECK(f.order(1).items[0].begins->granted_tokens == 0);
  // While the first computes, a second of the same prompt finds nothing.
  f.prefill(1, 2, at(50));
  CHECK(f.order(2).items[0].begins->granted_tokens == 0);
  f.prefilled(1, 1, at(100));
  f.prefilled(2, 2, at(120));
  CHECK(f.fleet.next().time == at(100));
  CHECK(f.fleet.next().time == at(120));
  // The new block may be on its way for a while, then it is there: one of four tokens.
  f.prefill(0, 3, at(120));
  f.prefilled(1, 3, at(200), f.order(1).items[0].begins->granted_tokens);
  CHECK(f.fleet.next().time == at(200));
  f.prefill(1, 4, at(100'000));
  CHECK(f.order(2).items[0].begins->granted_tokens == 4);
  REQUIRE(f.order(2).items[0].begins->loads.size() == 1);
  CHECK(f.order(2).items[0].begins->loads[0].bytes == 4000);
  f.prefilled(2, 4, at(100'500), 4);
  const Event last = f.fleet.next();
  const PrefillResult& result = std::get<PrefillReported>(last.what).results[0];
  SharedPorts ports(f.options.machine, f.options.network, 3, 1);
  const OwnerShare share{.owner = 0, .bytes = 4000, .pieces = 1};
  CHECK(result.pool == ports.loads(1, {&share, 1}, at(100'000)).ready - at(100'000));
}

TEST_CASE("a real pool loses what the directory has given up, but no block that a batch under way may use") {
  const Prompt one{1, 2, 3, 4, 5, 6}, two{6, 2, 3, 4, 5, 6}, three{7, 2, 3, 4, 5, 6}, four{8, 2, 3, 4, 5, 6};
  std::vector<pool::Key> removed;
  ModelledFleetOptions options = some_options();
  options.pool->capacity_bytes = options.pool->block_bytes;  // the block that was written last
  options.pool->keep_changes = true;
  options.remove_block = [&](const pool::Key& key) { removed.push_back(key); };
  Fixture f({}, options);
  const auto done = [&](int rank, RequestId request, RunTime end, int hits) {
    f.prefilled(rank, request, end, hits);
    CHECK(f.fleet.next().time == end);
  };
  f.prefill(0, 1, at(0), one);
  done(1, 1, at(100), 0);
  f.prefill(1, 2, at(100'000), two);
  done(2, 2, at(100'100), 0);
  // The second block is on its way; the first is granted once more, and gives way while its die may still load it.
  f.prefill(0, 3, at(100'100), one);
  CHECK(f.order(1).items[0].begins->granted_tokens == 4);
  f.prefill(1, 4, at(200'000), three);
  CHECK(removed.empty());
  f.prefilled(1, 3, at(300'000), 4);
  done(2, 4, at(250'000), 0);
  // Request 3 has stored the first block again; the third has taken the room of the second.
  CHECK(f.fleet.next().time == at(300'000));
  f.prefill(0, 5, at(300'000), four);
  const pool::Key root = pool::chain_root("default", "model", 4);
  CHECK(removed == pool::chain_keys(root, two, 4));
}

TEST_CASE("reports that cannot be are refused") {
  Fixture f;
  f.decode(at(50));
  f.decoded(at(50));
  CHECK_THROWS_WITH(f.fleet.next(), Contains("rank 3 reported a step that ended before it began"));
  Fixture g;
  g.prefill(0, 1, at(0));
  g.prefilled(1, 1, at(10), 4);
  CHECK_THROWS_WITH(g.fleet.next(), Contains("request 1 took 4 tokens from the pool where the model has 0"));
}
