// The policy against a simulated fleet with its own clock: no MPI, no waiting.
#include "runtime/serving/coordinator/scheduler.hpp"

#include <algorithm>
#include <map>

#include "runtime/core/error.hpp"
#include "runtime/serving/roles.hpp"
#include "tests/serving/fake_fleet.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;
using Catch::Matchers::Contains;

TEST_CASE("every request ends, with all its tokens, and its parts add up exactly") {
  ServingConfig config;
  config.prefill_instances = GENERATE(1, 2);
  config.prefill_dies = GENERATE(1, 3);
  config.decode_instances = GENERATE(1, 2);
  config.decode_dies = GENERATE(1, 4);
  const int output = GENERATE(1, 2, 9);
  FakeFleet fleet(config, some_requests(23, 100, output, 0.001));
  const std::vector<ServedRequest> all = fleet.run();
  CHECK(fleet.stopped);
  REQUIRE(all.size() == 23);
  for (const ServedRequest& served : all) {
    const RequestRecord& r = served.record;
    CHECK(served.ended.why == EndReason::length);
    CHECK(r.tokens.size() == static_cast<std::size_t>(output));
    CHECK(r.hit_tokens + r.computed_tokens == 100);
    const PartTimes parts = parts_of(r);
    CHECK(parts.sum() == r.finished - r.arrived);
    for (const RunSpan part : {parts.queue, parts.pool, parts.prefill, parts.handover, parts.decode, parts.exchange})
      CHECK(part >= 0ns);
    CHECK(std::is_sorted(r.token_times.begin(), r.token_times.end()));
  }
}

TEST_CASE("a run ends only when every die has reported: an empty sibling of the last batch, too") {
  ServingConfig config;
  config.prefill_instances = 1;
  config.prefill_dies = 2;
  // One request of one token: its own die reports first and ends it; the sibling's report is still owed then.
  FakeFleet fleet(config, some_requests(1, 10, 1));
  const std::vector<ServedRequest> all = fleet.run();
  CHECK(all.size() == 1);
  CHECK(fleet.stopped);
  CHECK(fleet.quiet());
}

TEST_CASE("limits hold: prefill batch, decode batch, KV capacity, concurrency") {
  ServingConfig config;
  const std::vector<Request> requests = some_requests(40, 100, 20);

  SECTION("prefill tokens") {
    config.max_prefill_tokens = 250;
    FakeFleet fleet(config, requests);
    fleet.run();
    CHECK(fleet.largest_prefill_tokens == 200);
  }
  SECTION("a request above the prefill budget still runs, alone") {
    config.max_prefill_tokens = 50;
    FakeFleet fleet(config, requests);
    fleet.run();
    CHECK(fleet.largest_prefill_tokens == 100);
  }
  SECTION("decode slots") {
    config.max_decode_batch = 3;
    FakeFleet fleet(config, requests);
    fleet.run();
    CHECK(fleet.largest_decode_batch == 3);
  }
  SECTION("KV capacity") {
    config.decode_kv_tokens = 250;  // two requests of 120 a die
    FakeFleet fleet(config, requests);
    fleet.run();
    CHECK(fleet.largest_decode_batch == 2);
  }
  SECTION("concurrency") {
    FakeFleet fleet(config, requests);
    const auto all = fleet.run(1);
    for (std::size_t i = 1; i < all.size(); ++i) CHECK(all[i].record.prefill_started >= all[i - 1].record.finished);
  }
}

TEST_CASE("requests spread over the decode dies, and nobody overtakes the head of the queue") {
  ServingConfig config;
  FakeFleet fleet(config, some_requests(16, 64, 4));
  const auto all = fleet.run();
  std::map<int, int> per_die;
  for (const auto& [request, die] : fleet.decode_die) ++per_die[die.die];
  CHECK(per_die == std::map<int, int>{{0, 4}, {1, 4}, {2, 4}, {3, 4}});
  for (std::size_t i = 1; i < all.size(); ++i)
    CHECK(all[i].record.prefill_started >= all[i - 1].record.prefill_started);
}

TEST_CASE("waiting requests go to the least loaded idle prefill instance, and die") {
  ServingConfig config;
  config.prefill_instances = 2;
  config.prefill_dies = 2;
  config.decode_dies = 1;
  config.decode_kv_tokens = 200;
  std::vector<Request> requests = some_requests(5, 10, 2);
  // While the first decodes there is no room for the second, so all others wait and both instances are idle.
  requests[0].prompt.resize(150, 1);
  requests[1].prompt.resize(100, 1);
  FakeFleet fleet(config, requests);
  fleet.run();
  const auto with = [&](RequestId id) {
    return *std::find_if(fleet.batches.begin(), fleet.batches.end(), [&](const StartStep& batch) {
      for (const auto& works : batch.by_die)
        for (const Work& work : works)
          if (work.request == id) return true;
      return false;
    });
  };
  const auto tokens_of = [](const StartStep& batch) {
    std::vector<std::size_t> tokens;
    for (const auto& items : batch.by_die) {
      std::size_t sum = 0;
      for (const Work& work : items) sum += static_cast<std::size_t>(work.count);
      tokens.push_back(sum);
    }
    return tokens;
  };
  // The long one takes an instance; the three short ones that are admitted with it share the other one's dies.
  const StartStep long_batch = with(requests[1].id), short_batch = with(requests[2].id);
  CHECK(long_batch.instance != short_batch.instance);
  CHECK(tokens_of(long_batch) == std::vector<std::size_t>{100, 0});
  CHECK(tokens_of(short_batch) == std::vector<std::size_t>{20, 10});
}

TEST_CASE("a TPOT objective holds back joins while others run") {
  ServingConfig config;
  config.decode_dies = 1;
  config.tpot_objective_ms = 1;  // the fake fleet takes 2 ms an iteration
  FakeFleet fleet(config, some_requests(4, 10, 5, 0.02));
  const auto all = fleet.run();
  CHECK(fleet.largest_decode_batch == 1);
  CHECK(all.size() == 4);
}

TEST_CASE("every token of an iteration counts from its end, the last one as the others") {
  ServingConfig config;
  config.decode_dies = 4;  // die d reports d nanoseconds later
  FakeFleet fleet(config, some_requests(4, 10, 4));
  for (const ServedRequest& served : fleet.run()) {
    const std::vector<RunTime>& times = served.record.token_times;
    REQUIRE(times.size() == 4);
    CHECK(times[2] - times[1] == 2ms + 3ns);
    CHECK(times[3] - times[2] == 2ms + 3ns);
    CHECK(times[3] == served.record.finished);
  }
}

TEST_CASE("a request whose logits are not finite fails with the reason, and the others go on") {
  ServingConfig config;
  std::vector<Request> requests = some_requests(6, 10, 5);
  FakeFleet fleet(config, requests);
  fleet.without_first_token = {requests[1].id};
  fleet.fails_while_decoding = {requests[4].id};
  const auto all = fleet.run();
  REQUIRE(all.size() == 6);
  for (std::size_t i = 0; i < all.size(); ++i) CHECK(all[i].completed() == (i != 1 && i != 4));
  CHECK(all[1].ended.detail == "the logits of its first token are not finite");
  CHECK(all[1].record.tokens.empty());
  CHECK(all[4].ended.detail == "the logits of token 2 are not finite");
}

TEST_CASE("when a run cannot go on, requests in every state end as failed, with the reason") {
  const ServingConfig config;
  ServedLog log;
  Scheduler scheduler(config, log, 1);
  RequestId id = 1;
  for (const Request& request : some_requests(3, 10, 2))
    scheduler.handle({RunTime(std::chrono::milliseconds(id++)), Arrived{std::make_shared<const Request>(request)}});
  scheduler.fail_all("rank 3 stays silent", RunTime(9ms));
  CHECK(scheduler.idle());
  const std::vector<ServedRequest> ended = log.take();
  REQUIRE(ended.size() == 3);
  for (const ServedRequest& served : ended) {
    CHECK_FALSE(served.completed());
    CHECK(served.ended.detail == "rank 3 stays silent");
    CHECK(served.record.finished == RunTime(9ms));
  }
}

TEST_CASE("a request that no decode die can ever hold fails at once, and the queue goes on") {
  ServingConfig config;
  config.decode_kv_tokens = 100;
  std::vector<Request> requests = some_requests(3, 10, 5);
  requests[1].prompt.resize(96, 1);
  FakeFleet fleet(config, requests);
  const auto all = fleet.run();
  REQUIRE(all.size() == 3);
  for (std::size_t i = 0; i < all.size(); ++i) CHECK(all[i].completed() == (i != 1));
  CHECK(all[1].ended.detail == "it needs room for 101 tokens of KV, a decode die has 100");
  CHECK(parts_of(all[1].record).sum() == 0ns);
  CHECK_FALSE(fleet.prefill_die.contains(requests[1].id));
}

TEST_CASE("events that do not fit what was ordered are refused by name") {
  ServingConfig config;
  config.decode_dies = 1;
  ServedLog log;
  Scheduler scheduler(config, log);
  auto request = std::make_shared<const Request>(some_requests(1, 10, 3)[0]);
  const RequestId id = request->id;
  const auto at = [](int ms) { return RunTime(std::chrono::milliseconds(ms)); };
  CHECK_THROWS_WITH(scheduler.handle({at(0), PrefillReported{{0, 0}, {}}}), Contains("without a batch"));
  CHECK_THROWS_WITH(scheduler.handle({at(0), DecodeReported{{0, 0}, 0ns, {}}}), Contains("without an iteration"));
  CHECK_THROWS_WITH(scheduler.handle({at(0), KvArrived{{0, 0}, 5}}), Contains("request 5, which is not here"));

  const std::vector<Command> prefill = scheduler.handle({at(1), Arrived{request}});
  REQUIRE(prefill.size() == 2);
  CHECK(std::get<ReserveKv>(prefill[0]).request == request);
  CHECK_THROWS_WITH(scheduler.handle({at(2), KvArrived{{0, 0}, id}}), Contains("which does not wait for it"));
  const std::vector<Command> handover =
      scheduler.handle({at(2), PrefillReported{{0, 0}, {{id, SampledToken(3), 0, 10, 0ns, 0ns}}}});
  REQUIRE(handover.size() == 1);
  CHECK(std::get<ExpectKv>(handover[0]).first_token == 3);
  const std::vector<Command> decode = scheduler.handle({at(3), KvArrived{{0, 0}, id}});
  REQUIRE(decode.size() == 1);
  CHECK_THROWS_WITH(scheduler.handle({at(4), DecodeReported{{0, 0}, 0ns, {}}}), Contains("got no token"));
}

TEST_CASE("a prefill report that leaves a request or prompt tokens out is refused") {
  ServingConfig config;
  config.prefill_instances = 1;
  config.prefill_dies = 2;
  ServedLog log;
  Scheduler scheduler(config, log);
  auto request = std::make_shared<const Request>(some_requests(1, 10, 3)[0]);
  const auto report = [&](int die, std::vector<PrefillResult> results) {
    scheduler.handle({RunTime{}, PrefillReported{{0, die}, std::move(results)}});
  };
  const PrefillResult good{request->id, SampledToken(3), 4, 6, 0ns, 0ns};
  PrefillResult short_of_one = good, negative = good;
  short_of_one.computed_tokens = 5;
  negative.hit_tokens = -1, negative.computed_tokens = 11;
  scheduler.handle({RunTime{}, Arrived{request}});
  SECTION("the request") { CHECK_THROWS_WITH(report(0, {}), "prefill instance 0, die 0 reported 0 requests of 1"); }
  SECTION("a token") {
    CHECK_THROWS_WITH(report(0, {short_of_one}), Contains("of 10 prompt tokens: 4 loaded and 5 computed"));
  }
  SECTION("a negative number") { CHECK_THROWS_WITH(report(0, {negative}), Contains("-1 loaded and 11 computed")); }
  SECTION("a die that reports twice is not taken for its sibling") {
    report(1, {});
    CHECK_THROWS_WITH(report(1, {}), "prefill instance 0, die 1 reported without a batch");
    CHECK_FALSE(scheduler.fleet().prefill[0].idle());
    report(0, {good});
    CHECK(scheduler.fleet().prefill[0].idle());
  }
}

TEST_CASE("a token twice in an iteration is refused") {
  ServingConfig config;
  config.decode_dies = 1;
  ServedLog log;
  Scheduler scheduler(config, log);
  auto request = std::make_shared<const Request>(some_requests(1, 10, 3)[0]);
  const RequestId id = request->id;
  scheduler.handle({RunTime{}, Arrived{request}});
  scheduler.handle({RunTime{}, PrefillReported{{0, 0}, {{id, SampledToken(3), 0, 10, 0ns, 0ns}}}});
  scheduler.handle({RunTime{}, KvArrived{{0, 0}, id}});
  CHECK_THROWS_WITH(scheduler.handle({RunTime{}, DecodeReported{{0, 0}, 0ns, {{id, 1}, {id, 2}}}}),
                    Contains("got more than one token"));
}

TEST_CASE("roles follow the sizes, and a wrong world is told the right one") {
  ServingConfig config;  // 1 + 2x1 + 1x4 + 1
  CHECK(world_size(config) == 8);
  config.prefill_dies = 2;
  config.decode_instances = 2;
  CHECK(world_size(config) == 14);
  for (int rank = 0; rank < world_size(config); ++rank) {
    const Part part = part_of(config, rank);
    switch (part.role) {
      case Role::coordinator:
        CHECK(rank == 0);
        break;
      case Role::prefill:
        CHECK(prefill_rank(config, part.instance, part.die) == rank);
        break;
      case Role::decode:
        CHECK(decode_rank(config, part.instance, part.die) == rank);
        break;
      case Role::cache:
        CHECK(cache_rank(config, part.die) == rank);
        break;
    }
  }
  CHECK_NOTHROW(check_world_size(config, 14));
  CHECK_THROWS_WITH(check_world_size(config, 8), Contains("needs 14 ranks") && Contains("mpirun -n 14"));
}
