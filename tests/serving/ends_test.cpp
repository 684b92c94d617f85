// How requests end: with their tokens, at a stop token, cancelled at any moment, refused. A simulated fleet checks that
// its dies are told to free what they hold, once.
#include <algorithm>

#include "runtime/core/random.hpp"
#include "tests/serving/fake_fleet.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;
using Catch::Matchers::Contains;

namespace {

/// What holds of every request, however it ended.
void check_ended(const ServedRequest& served) {
  const RequestRecord& r = served.record;
  INFO("request " << served.request->id << ": " << to_string(served.ended.why));
  CHECK(r.tokens.size() == r.token_times.size());
  CHECK(r.tokens.size() <= static_cast<std::size_t>(served.request->max_output));
  if (served.ended.why == EndReason::length)
    CHECK(r.tokens.size() == static_cast<std::size_t>(served.request->max_output));
  if (served.completed()) CHECK(r.hit_tokens + r.computed_tokens == served.request->prompt_tokens());
  const PartTimes parts = parts_of(r);
  CHECK(parts.sum() == r.finished - r.arrived);
  for (const RunSpan part : {parts.queue, parts.pool, parts.prefill, parts.handover, parts.decode, parts.exchange})
    CHECK(part >= 0ns);
}

/// Everything that a request passes takes a while: some wait for room, prompts have several pieces.
ServingConfig narrow_config() {
  ServingConfig config;
  config.prefill_instances = 2;
  config.prefill_dies = 2;
  config.decode_dies = 2;
  config.decode_kv_tokens = 250;  // two requests a die
  config.chunk_tokens = 30;
  config.max_prefill_tokens = 80;
  return config;
}

/// Two instances of each kind, whose dies hold two requests each.
ServingConfig doubled_config() {
  ServingConfig config = narrow_config();
  config.decode_instances = 2;
  return config;
}

}  // namespace

TEST_CASE("an instance can be lost before any event of a run, and the others serve what it had not begun") {
  ServingConfig config = doubled_config();
  config.chunk_tokens = GENERATE(0, 30);
  const InstanceId lost{GENERATE(emulation::Stage::prefill, emulation::Stage::decode), GENERATE(0, 1)};
  std::vector<Request> requests = some_requests(14, 100, 4, 0.0015);
  requests[2].max_output = 1;
  FakeFleet undisturbed(config, requests);
  undisturbed.run();
  std::map<EndReason, int> ends;
  for (int event = 0; event < undisturbed.events_handed_out; ++event) {
    FakeFleet fleet(config, requests);
    fleet.overdue_before_event[event] = {lost, {}, false, "rank 7 is silent"};
    fleet.cancel_before_event[event + 5] = requests[static_cast<std::size_t>(event) % requests.size()].id;
    INFO(to_string(lost) << " before event " << event);
    const std::vector<ServedRequest> all = fleet.run();
    REQUIRE(all.size() == requests.size());
    REQUIRE(fleet.lost.size() == 1);
    CHECK(fleet.lost[0].role == name_of(lost.stage));
    CHECK(fleet.lost[0].instance == lost.index);
    int failed = 0;
    for (const ServedRequest& served : all) {
      check_ended(served);
      ++ends[served.ended.why];
      if (served.ended.why != EndReason::failed) continue;
      ++failed;
      CHECK(served.ended.detail == "rank 7 is silent");
    }
    // At most what it can hold: two prompts a step of pieces, or two requests a die, and those handed over.
    CHECK(failed <= 6);
    CHECK((event > 0 || failed == 0));
  }
  CHECK(ends[EndReason::failed] > 10);
  CHECK(ends[EndReason::length] > 10 * ends[EndReason::failed] / 4);
  CHECK(ends.size() == 3);
}

TEST_CASE("a run whose last instance of a kind is lost fails what is left, with the reason") {
  const ServingConfig config = doubled_config();
  const auto stage = GENERATE(emulation::Stage::prefill, emulation::Stage::decode);
  FakeFleet fleet(config, some_requests(14, 100, 4));
  fleet.overdue_before_event[20] = {{stage, 1}, {}, false, "the first is silent"};
  fleet.overdue_before_event[30] = {{stage, 0}, {}, false, "the second is silent"};
  ServedLog log;
  Scheduler scheduler(config, log);
  CHECK_THROWS_WITH(coordinate(scheduler, fleet), "the second is silent");
  const std::vector<ServedRequest> all = log.take();
  CHECK(all.size() == 14);
  int of_second = 0;
  for (const ServedRequest& served : all) {
    check_ended(served);
    if (served.ended.why == EndReason::failed && served.ended.detail == "the second is silent") ++of_second;
  }
  CHECK(of_second > 0);
}

TEST_CASE("KV that is overdue is its sender's fault when its decode die reports other things") {
  ServingConfig config = doubled_config();
  config.prefill_dies = config.decode_dies = 1;
  const bool heard = GENERATE(true, false);
  ServedLog log;
  Scheduler scheduler(config, log);
  const Request request = some_requests(1, 10, 3)[0];
  const RequestId id = request.id;
  scheduler.handle({RunTime{}, Arrived{std::make_shared<const Request>(request)}});
  scheduler.handle({RunTime{}, PrefillReported{{0, 0}, {{id, SampledToken(3), 0, 10, 0ns, 0ns}}}});
  const std::vector<Command> commands =
      scheduler.handle({RunTime(1s), Overdue{{emulation::Stage::decode, 0}, id, heard, "no KV"}});
  REQUIRE(commands.size() == (heard ? 2 : 1));
  CHECK(std::get<AbandonInstance>(commands[0]).instance ==
        InstanceId{heard ? emulation::Stage::prefill : emulation::Stage::decode, 0});
  if (heard) {
    const DropState& drop = std::get<DropState>(commands[1]);
    CHECK(drop.instance == InstanceId{emulation::Stage::decode, 0});
    CHECK(drop.by_die == std::vector<std::vector<RequestId>>{{id}});
    CHECK(drop.kv == Remainder::lost);
  }
  CHECK(scheduler.all_free());
  const std::vector<ServedRequest> all = log.take();
  REQUIRE(all.size() == 1);
  CHECK(all[0].ended.why == EndReason::failed);
  CHECK(all[0].ended.detail == "no KV");
}

TEST_CASE("a request can be cancelled before any event of a run, and costs the others nothing") {
  ServingConfig config = narrow_config();
  // Whole or in pieces; the pieces on one die, or all but one of the prompts on all dies of an instance.
  const auto [chunk_tokens, split_prompts] = GENERATE(table<int, int>({{0, 0}, {30, 0}, {30, 90}}));
  config.chunk_tokens = chunk_tokens;
  config.split_prompts = split_prompts;
  std::vector<Request> requests = some_requests(7, 100, 4, 0.0015);
  requests[4].prompt.resize(80);
  requests[2].max_output = 1;  // it has nothing on a decode die
  FakeFleet undisturbed(config, requests);
  undisturbed.run();
  std::map<EndReason, int> ends;
  for (const Request& victim : requests) {
    for (int event = 0; event < undisturbed.events_handed_out; ++event) {
      FakeFleet fleet(config, requests);
      fleet.cancel_before_event[event] = victim.id;
      INFO("request " << victim.id << " before event " << event);
      const std::vector<ServedRequest> all = fleet.run();
      REQUIRE(all.size() == requests.size());
      for (const ServedRequest& served : all) {
        check_ended(served);
        if (served.request->id != victim.id) CHECK(served.ended.why == EndReason::length);
        if (served.request->id == victim.id) ++ends[served.ended.why];
      }
    }
  }
  // Before it came and after it ended there was nothing to cancel.
  CHECK(ends[EndReason::length] > 0);
  CHECK(ends[EndReason::cancelled] > 100);
  CHECK(ends.size() == 2);
}

TEST_CASE("requests cancelled twice, together and at random leave nothing behind") {
  for (std::uint64_t round = 0; round < 300; ++round) {
    Random random(round, 1);
    const auto one_of = [&](std::vector<int> values) { return values[random.below(values.size())]; };
    ServingConfig config = narrow_config();
    config.prefill_instances = one_of({1, 2, 3});
    config.prefill_dies = one_of({1, 2});
    config.decode_instances = one_of({1, 2});
    config.chunk_tokens = one_of({0, 7, 30, 100});
    config.decode_kv_tokens = one_of({250, 100000});
    config.max_queue = one_of({0, 0, 3});
    config.tpot_objective_ms = one_of({0, 1});
    std::vector<Request> requests = some_requests(25, 10, 1, 0.0007);
    for (Request& request : requests) {
      request.prompt.resize(1 + random.below(200), 1);
      request.max_output = 1 + static_cast<int>(random.below(9));
      if (random.below(2) == 0) request.cancel_s = request.arrival_s + 0.04 * random.uniform();
      if (random.below(4) == 0) request.stop = {99};
    }
    FakeFleet fleet(config, requests);
    fleet.draw = [&](RequestId id, int nth) { return (id + static_cast<std::uint64_t>(nth)) % 5 == 0 ? 99 : 8; };
    for (int event = 0; event < 100; event += 5)
      fleet.cancel_before_event[event] = requests[random.below(requests.size())].id;
    if (random.below(3) == 0) fleet.without_first_token = {requests[3].id};
    if (random.below(3) == 0) fleet.fails_while_decoding = {requests[4].id};
    INFO("round " << round);
    const std::vector<ServedRequest> all = fleet.run(one_of({0, 4}));
    CHECK(all.size() == requests.size());
    for (const ServedRequest& served : all) check_ended(served);
  }
}

TEST_CASE("a request ends with the first of its stop tokens, which it keeps") {
  ServingConfig config;
  std::vector<Request> requests = some_requests(4, 10, 9);
  requests[0].stop = {50, 99};
  requests[1].stop = {7};  // the token of prefill
  requests[2].stop = {50};
  FakeFleet fleet(config, requests);
  fleet.draw = [](RequestId, int nth) { return nth == 0 ? 7 : nth == 4 ? 99 : 8; };
  const std::vector<ServedRequest> all = fleet.run();
  REQUIRE(all.size() == 4);
  CHECK(all[0].ended.why == EndReason::stop);
  CHECK(all[0].record.tokens == std::vector<std::int32_t>{7, 8, 8, 8, 99});
  CHECK(all[1].ended.why == EndReason::stop);
  CHECK(all[1].record.tokens == std::vector<std::int32_t>{7});
  for (const std::size_t i : {2u, 3u}) {
    CHECK(all[i].ended.why == EndReason::length);
    CHECK(all[i].record.tokens.size() == 9);
  }
  for (const ServedRequest& served : all) {
    CHECK(served.completed());
    check_ended(served);
  }
}

TEST_CASE("what speculation gives behind a stop token is thrown away, and the die frees the request at once") {
  ServingConfig config;
  config.decode_dies = 1;
  ServedLog log;
  Scheduler scheduler(config, log);
  Request request = some_requests(1, 10, 20)[0];
  request.stop = {99};
  const RequestId id = request.id;
  scheduler.handle({RunTime{}, Arrived{std::make_shared<const Request>(request)}});
  scheduler.handle({RunTime{}, PrefillReported{{0, 0}, {{id, SampledToken(3), 0, 10, 0ns, 0ns}}}});
  scheduler.handle({RunTime{}, KvArrived{{0, 0}, id}});
  const std::vector<Command> commands =
      scheduler.handle({RunTime(1ms), DecodeReported{{0, 0}, 0ns, {{id, 4, {99, 5, 6}}}}});
  REQUIRE(commands.size() == 1);
  CHECK(std::get<DropState>(commands[0]).by_die == std::vector<std::vector<RequestId>>{{id}});
  CHECK(scheduler.all_free());
  const std::vector<ServedRequest> all = log.take();
  REQUIRE(all.size() == 1);
  CHECK(all[0].record.tokens == std::vector<std::int32_t>{3, 4, 99});
}

TEST_CASE("a request that comes when the queue is full is refused, and the others are served") {
  ServingConfig config;
  config.prefill_instances = 1;
  config.max_prefill_tokens = 100;
  config.max_queue = 3;
  FakeFleet fleet(config, some_requests(10, 100, 2));
  const std::vector<ServedRequest> all = fleet.run();
  REQUIRE(all.size() == 10);
  // The first one is computed at once, three wait, the others came too late.
  for (std::size_t i = 0; i < all.size(); ++i) {
    check_ended(all[i]);
    CHECK(all[i].ended.why == (i < 4 ? EndReason::length : EndReason::refused));
  }
  CHECK(all[9].ended.detail == "3 requests waited already");
  CHECK(all[9].record.finished == all[9].record.arrived);
  CHECK_FALSE(fleet.prefill_die.contains(all[9].request->id));
}
