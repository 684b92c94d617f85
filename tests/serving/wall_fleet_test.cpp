// The fleet on the wall clock, liveness and arrivals, with a clock and a transport of the test's own: no mpirun.
#include "runtime/serving/fleet/wall_fleet.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"
#include "runtime/serving/coordinator/arrivals.hpp"
#include "runtime/serving/coordinator/coordinate.hpp"
#include "tests/serving/fake_fleet.hpp"
#include "tests/serving/fake_port.hpp"
#include "tests/serving/test_clock.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;
using Catch::Matchers::Contains;

namespace {

/// Two prefill dies in one instance (ranks 1, 2), one decode die (rank 3).
ServingConfig some_config() {
  ServingConfig config;
  config.prefill_instances = 1;
  config.prefill_dies = 2;
  config.decode_dies = 1;
  config.cache_ranks = 0;
  return config;
}

constexpr InstanceId prefilling{emulation::Stage::prefill, 0}, decoding{emulation::Stage::decode, 0};

std::shared_ptr<const Request> request_of(RequestId id) {
  Request request;
  request.id = id;
  request.max_output = 1;
  request.prompt = {1};
  return std::make_shared<const Request>(request);
}

int count_keep_alives(const std::vector<FakePort::Sent>& sent) {
  return static_cast<int>(std::count_if(sent.begin(), sent.end(), [](const FakePort::Sent& one) {
    return one.tag == static_cast<int>(MessageKind::keep_alive);
  }));
}

struct Fixture {
  ServingConfig config = some_config();
  FakePort port;
  Arrivals nothing{{}};
  WallFleet fleet{config, nothing, port, 5, (test_now_s = 100, test_clock)};

  void start_batch() {
    fleet.perform(StartStep{prefilling, {{{1, 0, 1, Work::Beginning{request_of(1), {0, 0}}}}, {}}}, RunTime{});
  }
  void arrive(int rank, const Report& report) { port.arrive(rank, encode(report, RunTime{})); }
};

/// The same deployment on a clock that runs.
struct Running {
  ServingConfig config = some_config();
  FakePort port;
  Arrivals nothing{{}};
  WallFleet fleet{config, nothing, port, 0.4, (test_now_s = 0, running_clock)};
};

}  // namespace

TEST_CASE("arrivals come at their times, in order, and the source closes") {
  std::vector<Request> requests = some_requests(3, 4, 1);
  requests[0].arrival_s = 2;
  requests[1].arrival_s = 1;
  requests[2].arrival_s = 1;
  Arrivals arrivals(requests);
  CHECK(arrivals.next_at() == RunTime(1s));
  CHECK_FALSE(arrivals.poll(RunTime(999ms)));
  const auto id_of = [](const std::optional<Event>& event) {
    return std::get<Arrived>(event.value().what).request->id;
  };
  // Asked late: the time is still that of the arrival.
  const auto first = arrivals.poll(RunTime(5s));
  CHECK(first->time == RunTime(1s));
  CHECK(id_of(first) == requests[1].id);
  CHECK(id_of(arrivals.poll(RunTime(5s))) == requests[2].id);
  CHECK_FALSE(arrivals.closed());
  CHECK(id_of(arrivals.poll(RunTime(5s))) == requests[0].id);
  CHECK(arrivals.closed());
  CHECK_FALSE(arrivals.next_at());
  CHECK_FALSE(arrivals.poll(RunTime(9s)));
}

TEST_CASE("requests are cancelled at their times, never before they come, and nobody waits for that") {
  std::vector<Request> requests = some_requests(3, 4, 1, 1);
  requests[0].cancel_s = 1;
  requests[1].cancel_s = 0.5;  // before it arrives
  requests[2].cancel_s = 9;
  Arrivals arrivals(requests);
  std::vector<std::pair<RunTime, RequestId>> arrived, cancelled;
  while (const std::optional<RunTime> at = arrivals.next_at()) {
    const Event event = arrivals.poll(*at).value();
    CHECK(event.time == *at);
    if (const auto* one = std::get_if<Arrived>(&event.what)) arrived.emplace_back(event.time, one->request->id);
    if (const auto* one = std::get_if<Cancelled>(&event.what)) cancelled.emplace_back(event.time, one->request);
    CHECK(arrivals.closed() == (arrived.size() == 3));
  }
  CHECK(arrived.size() == 3);
  const std::vector<std::pair<RunTime, RequestId>> expected{
      {RunTime(1s), requests[0].id}, {RunTime(1s), requests[1].id}, {RunTime(9s), requests[2].id}};
  CHECK(cancelled == expected);
}

TEST_CASE("liveness knows who owes what since when") {
  const OwedReport batch{MessageKind::prefill_reported}, iteration{MessageKind::decode_reported};
  const OwedReport kv{MessageKind::kv_arrived, 7};
  Liveness liveness(8, 0);
  CHECK(liveness.quiet());
  CHECK_FALSE(liveness.overdue(100));
  liveness.owe(3, iteration, 1);
  liveness.owe(2, batch, 2);
  liveness.owe(3, kv, 4);
  CHECK_FALSE(liveness.quiet());
  CHECK_FALSE(liveness.overdue(8.9));
  CHECK(liveness.overdue(9)->rank == 3);
  CHECK(liveness.overdue(9)->report == iteration);
  // Neither this report nor the next iteration puts off what else the rank owes.
  liveness.reported(3, iteration);
  liveness.owe(3, iteration, 9);
  CHECK_FALSE(liveness.overdue(9.9));
  CHECK(liveness.overdue(10)->rank == 2);
  liveness.reported(2, batch);
  CHECK_FALSE(liveness.overdue(11.9));
  CHECK(liveness.overdue(12)->report == kv);
  liveness.reported(3, kv);
  liveness.reported(3, iteration);
  CHECK(liveness.quiet());
  CHECK_THROWS_WITH(liveness.reported(3, iteration),
                    "rank 0 (coordinator): rank 3 reported a decode iteration, which it did not owe");

  CHECK_FALSE(liveness.keep_alive_due(0.9));
  CHECK(liveness.keep_alive_due(1));
  CHECK_FALSE(liveness.keep_alive_due(1.9));
  CHECK(liveness.keep_alive_due(2));
}

TEST_CASE_METHOD(Fixture, "the fleet is quiet only when both dies of an instance have reported") {
  CHECK(fleet.quiet());
  start_batch();
  REQUIRE(port.sent.size() == 2);  // the die without a request takes part, too
  arrive(1, PrefillReport{{{1, SampledToken(3), 0, 1, 0ns, 0ns}}, {{"absent", 2}}});
  CHECK(std::get<PrefillReported>(fleet.next().what).die == DieId{0, 0});
  CHECK_FALSE(fleet.quiet());
  arrive(2, PrefillReport{{}, {{"absent", 1}, {"owner_down", 4}}});
  CHECK(std::get<PrefillReported>(fleet.next().what).results.empty());
  CHECK(fleet.quiet());
  CHECK(fleet.miss_reasons() == std::map<std::string, std::uint64_t>{{"absent", 3}, {"owner_down", 4}});
}

TEST_CASE("a run with an empty sibling at the end takes every last report for what it is") {
  const ServingConfig config = some_config();
  FakePort port;
  Request request = *request_of(1);
  Arrivals arrivals({request});
  test_now_s = 100;
  WallFleet fleet(config, arrivals, port, 5, test_clock);
  ServedLog log;
  Scheduler scheduler(config, log);
  // The sibling's empty report comes after the one that ends the only request.
  port.arrive(1, encode(PrefillReport{{{1, SampledToken(3), 0, 1, 0ns, 0ns}}}, RunTime{}));
  port.arrive(2, encode(PrefillReport{}, RunTime{}));
  for (int rank = 1; rank <= 3; ++rank)
    port.arrive(rank,
                encode(StoppedReport{{10, static_cast<std::uint64_t>(rank), 0, 0, 0, {{"absent", 1}}}}, RunTime{}));
  const WorkerStatistics counts = coordinate(scheduler, fleet);
  CHECK(counts.lookups == 30);
  CHECK(counts.hits == 6);
  CHECK(counts.miss_reasons == std::map<std::string, std::uint64_t>{{"absent", 3}});
  CHECK(port.arriving.empty());
  CHECK(port.flushes == 1);
  CHECK(log.take().size() == 1);
}

TEST_CASE_METHOD(Fixture, "short, foreign, duplicated and late reports are refused by rank") {
  SECTION("short") {
    start_batch();
    std::vector<std::byte> bytes = encode(PrefillReport{}, RunTime{});
    bytes.pop_back();
    port.arrive(1, bytes);
    CHECK_THROWS_WITH(fleet.next(), Contains("from rank 1: message too short"));
  }
  SECTION("foreign") {
    start_batch();
    arrive(1, DecodeReport{});
    CHECK_THROWS_WITH(fleet.next(), Contains("from rank 1: message 'decode_reported' of a prefill rank"));
  }
  SECTION("duplicated") {
    start_batch();
    arrive(2, PrefillReport{});
    arrive(2, PrefillReport{});
    fleet.next();
    CHECK_THROWS_WITH(fleet.next(), Contains("rank 2 reported a prefill batch, which it did not owe"));
  }
  SECTION("before it was asked") {
    arrive(3, KvReport{1});
    start_batch();
    CHECK_THROWS_WITH(fleet.next(), Contains("rank 3 reported the KV of request 1, which it did not owe"));
  }
  SECTION("a last report without an order") {
    start_batch();
    arrive(1, StoppedReport{});
    CHECK_THROWS_WITH(fleet.next(), Contains("rank 1 reported what it counted, which it did not owe"));
  }
  SECTION("late: after the order to stop") {
    arrive(3, DecodeReport{});
    CHECK_THROWS_WITH(fleet.stop(Unfinished::none),
                      Contains("rank 3 reported a decode iteration, which it did not owe"));
  }
  SECTION("two last reports") {
    arrive(1, StoppedReport{});
    arrive(1, StoppedReport{});
    CHECK_THROWS_WITH(fleet.stop(Unfinished::none), Contains("rank 1 reported what it counted, which it did not owe"));
  }
}

TEST_CASE_METHOD(Running, "a silent die is named, and workers hear that the coordinator is there") {
  fleet.perform(StartStep{prefilling, {{}, {}}}, RunTime{});
  port.arrive(1, encode(PrefillReport{}, RunTime{}));
  fleet.next();
  CHECK_THROWS_WITH(
      fleet.next(),
      "rank 0 (coordinator): rank 2 (prefill instance 0, die 1) did not report a prefill batch within 0.4 s");
  // Eight times a deadline, to each of three.
  CHECK(count_keep_alives(port.sent) >= 3 * 7);
  CHECK(count_keep_alives(port.sent) <= 3 * 8);
}

TEST_CASE_METHOD(Running, "an idle worker hears that the coordinator is there while reports keep coming") {
  for (int batch = 0; batch < 200; ++batch) {
    fleet.perform(StartStep{prefilling, {{}, {}}}, RunTime{});
    for (const int rank : {1, 2}) {
      port.arrive(rank, encode(PrefillReport{}, RunTime{}));
      fleet.next();  // finds the report at its first turn
    }
  }
  CHECK(count_keep_alives(port.sent) >= 3 * static_cast<int>(test_now_s / 0.055));
}

TEST_CASE("events come in order of time, wherever arrivals fall between two looks at the clock") {
  const ServingConfig config = some_config();
  FakePort port;
  Arrivals arrivals(some_requests(60, 4, 1, 0.0007));
  test_now_s = 0;
  WallFleet fleet(config, arrivals, port, 5, running_clock);
  RunTime last{};
  int reports = 2;
  while (!arrivals.closed() || reports < 2) {
    if (reports == 2) {
      fleet.perform(StartStep{prefilling, {{}, {}}}, last);
      for (const int rank : {1, 2}) port.arrive(rank, encode(PrefillReport{}, RunTime{}));
      reports = 0;
    }
    const Event event = fleet.next();
    CHECK(event.time >= last);
    last = event.time;
    reports += std::holds_alternative<PrefillReported>(event.what);
  }
  CHECK(fleet.quiet());
}

TEST_CASE_METHOD(Fixture, "KV that does not come is missed in time while its die goes on iterating") {
  fleet.perform(ExpectKv{request_of(9), {0, 0}, 1, 3}, RunTime{});
  for (int iteration = 0; iteration < 4; ++iteration) {
    fleet.perform(StartStep{decoding, {{}}}, RunTime{});
    arrive(3, DecodeReport{});
    CHECK(std::holds_alternative<DecodeReported>(fleet.next().what));
    test_now_s += 1.25;
  }
  CHECK_THROWS_WITH(
      fleet.next(),
      "rank 0 (coordinator): rank 3 (decode instance 0, die 0) did not report the KV of request 9 within 5 s");
}

TEST_CASE_METHOD(Fixture, "a report that waits to be read is no missing one, however late the coordinator looks") {
  start_batch();
  arrive(1, PrefillReport{{{1, SampledToken(3), 0, 1, 0ns, 0ns}}});
  arrive(2, PrefillReport{});
  test_now_s += 60;  // as when the process was stopped
  CHECK_NOTHROW(fleet.next());
  CHECK_NOTHROW(fleet.next());
  CHECK(fleet.quiet());
}

TEST_CASE_METHOD(Running, "the order to stop is the last that a worker gets") {
  for (int turn = 0; turn < 150; ++turn) port.pause();  // several times the span between keep-alives
  for (int rank = 1; rank <= 3; ++rank) port.arrive(rank, encode(StoppedReport{}, RunTime{}));
  fleet.stop(Unfinished::none);
  REQUIRE(port.sent.size() == 3);
  for (const FakePort::Sent& sent : port.sent) CHECK(sent.tag == static_cast<int>(MessageKind::stop));
}

TEST_CASE_METHOD(Running, "a worker that does not stop is named") {
  for (const int rank : {1, 3}) port.arrive(rank, encode(StoppedReport{}, RunTime{}));
  CHECK_THROWS_WITH(
      fleet.stop(Unfinished::none),
      "rank 0 (coordinator): rank 2 (prefill instance 0, die 1) did not report what it counted within 0.4 s");
}
