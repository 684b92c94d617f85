// What the first die of an instance tells of a step: as bytes, in parts, and whole again.
#include "runtime/serving/record/step_report.hpp"

#include "runtime/core/error.hpp"
#include "runtime/serving/fleet/fleet_link.hpp"
#include "runtime/serving/wire/messages.hpp"
#include "tests/serving/fake_port.hpp"
#include "tests/serving/recorded_steps.hpp"
#include "tests/serving/test_clock.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;
using Catch::Matchers::Contains;

namespace {

StepReport some_report() {
  const RunHead head = small_head();
  return small_step(head, head.instances[1], 3, true);
}

/// Ranks 1, 2: a prefill instance; 3 to 5: a decode instance; 6: a cache rank.
ServingConfig some_config() {
  ServingConfig config;
  config.prefill_instances = 1;
  config.prefill_dies = 2;
  config.decode_instances = 1;
  config.decode_dies = 3;
  config.cache_ranks = 1;
  return config;
}

struct Kept : StepLog {
  void on_step(const InstanceId& instance, const StepReport& report) override {
    instances.push_back(instance);
    reports.push_back(report);
  }
  std::vector<InstanceId> instances;
  std::vector<StepReport> reports;
};

}  // namespace

TEST_CASE("a report of a step comes back as it was") {
  const StepReport report = some_report();
  const StepReport back = decode_step_report(encode_report(report));
  CHECK(back.step == 3);
  CHECK(back.exchange == report.exchange);
  CHECK(back.wall_priced == report.wall_priced);
  REQUIRE(back.dies.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    const StepReport::Die &one = report.dies[i], &other = back.dies[i];
    CHECK(other.start == one.start);
    CHECK(other.end == one.end);
    CHECK(other.wall_begin == one.wall_begin);
    CHECK(other.wall_end == one.wall_end);
    CHECK(other.sequences == one.sequences);
    CHECK(other.tokens == one.tokens);
    CHECK(other.context == one.context);
    CHECK(other.record == one.record);
  }
  REQUIRE(back.timeline);
  CHECK(back.timeline->streams == report.timeline->streams);
  CHECK(back.timeline->tasks == report.timeline->tasks);
  CHECK(back.timeline->begins == report.timeline->begins);
  CHECK(back.timeline->ends == report.timeline->ends);
}

TEST_CASE("the tasks of a step lie within it, and know layer and microbatch") {
  const StepReport report = some_report();
  const StepTimeline& line = *report.timeline;
  for (std::size_t die = 0; die < 3; ++die) {
    std::int64_t last = 0;
    for (std::size_t i = 0; i < line.tasks.size(); ++i) {
      const std::int64_t begin = line.begins[die * line.tasks.size() + i], end = line.ends[die * line.tasks.size() + i];
      CHECK(begin >= report.dies[die].start.time_since_epoch().count());
      CHECK(end >= begin);
      last = std::max(last, end);
    }
    CHECK(last == report.dies[die].end.time_since_epoch().count());
  }
  int dispatches = 0;
  for (const StepTimeline::Task& task : line.tasks) {
    if (task.name == "dense layer") CHECK(task.place.layer == 0);
    if (task.name != "dispatch") continue;
    // The layers behind the dense one, then the speculative module; two microbatches each.
    CHECK(task.place.layer == 1 + dispatches / 2);
    CHECK(task.place.microbatch == dispatches % 2);
    ++dispatches;
  }
  CHECK(dispatches == 6);
}

TEST_CASE("a report that is cut, too long or at odds with itself is refused") {
  const std::vector<std::byte> good = encode_report(some_report());
  for (std::size_t size = 0; size < good.size(); size += 1 + size / 50)
    CHECK_THROWS_AS(decode_step_report(std::span(good).first(size)), EnvironmentError);
  std::vector<std::byte> bad = good;
  bad.push_back({});
  CHECK_THROWS_WITH(decode_step_report(bad), Contains("too long"));
  StepReport report = some_report();
  report.timeline->begins.pop_back();
  CHECK_THROWS_WITH(decode_step_report(encode_report(report)), Contains("times"));
  report = some_report();
  report.timeline->tasks[1].stream = 2;
  CHECK_THROWS_WITH(decode_step_report(encode_report(report)), Contains("no stream"));
  report = some_report();
  report.timeline->tasks[1].after = 1;
  CHECK_THROWS_WITH(decode_step_report(encode_report(report)), Contains("waits for a later one"));
}

TEST_CASE("a report in parts reaches the log whole, with its instance") {
  const ServingConfig config = some_config();
  const RunHead head = small_head();
  const std::vector<std::byte> prefill = encode_report(small_step(head, head.instances[0], 0)),
                               decode = encode_report(some_report());
  Kept log;
  StepIntake intake(config, &log);
  const auto parts = make_step_pieces(decode, {}, 1000);
  REQUIRE(parts.size() == (decode.size() + 999) / 1000);
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    CHECK(is_step_piece(parts[i]));
    CHECK(parts[i].size() <= 1000 + envelope_bytes + 8);
    intake.take(3, parts[i]);
  }
  // Another instance's comes in between.
  for (const auto& part : make_step_pieces(prefill, {})) intake.take(1, part);
  CHECK(log.instances == std::vector<InstanceId>{{emulation::Stage::prefill, 0}});
  intake.take(3, parts.back());
  REQUIRE(log.reports.size() == 2);
  CHECK(log.instances[1] == InstanceId{emulation::Stage::decode, 0});
  CHECK(encode_report(log.reports[1]) == decode);
  // And the next one of the same.
  for (const auto& part : make_step_pieces(decode, {}, 4096)) intake.take(3, part);
  CHECK(log.reports.size() == 3);
}

TEST_CASE("a part that nobody asked for, of a wrong rank, or out of order is refused by rank") {
  const ServingConfig config = some_config();
  const std::vector<std::byte> report = encode_report(some_report());
  const auto whole = make_step_pieces(report, {});
  Kept log;
  const auto refused = [&](StepLog* to, int rank, const std::vector<std::vector<std::byte>>& parts, const char* why) {
    StepIntake intake(config, to);
    INFO(why);
    CHECK_THROWS_WITH(
        [&] {
          for (const auto& part : parts) intake.take(rank, part);
        }(),
        Contains("from rank " + std::to_string(rank)) && Contains(why));
  };
  refused(nullptr, 3, whole, "nobody asked for");
  for (const int rank : {0, 4, 6, 7, -1}) refused(&log, rank, whole, "not from the first die");
  refused(&log, 1, whole, "a step of 3 dies of an instance of 2");
  const auto parts = make_step_pieces(report, {}, 1000);
  refused(&log, 3, {parts[0], parts[2]}, "does not follow");
  refused(&log, 3, {parts[0], parts[0]}, "does not follow");
  std::vector<std::byte> cut = whole[0];
  cut.pop_back();
  refused(&log, 3, {cut}, "too short");
  refused(&log, 3, {encode(KvReport{7}, {})}, "is no part of a step's report");
  CHECK(log.reports.empty());
}

TEST_CASE("the coordinator's link hands reports of steps to the log, and what was owed to the fleet") {
  const ServingConfig config = some_config();
  FakePort port;
  Kept log;
  FleetLink link(config, port, 1, (test_now_s = 0, test_clock), CacheOrders::pool, &log);
  link.send(StartStep{{emulation::Stage::decode, 0}, {{}, {}, {}}}, {});
  port.arrive(4, encode(DecodeReport{}, {}));
  for (auto& part : make_step_pieces(encode_report(some_report()), {}, 1000)) port.arrive(3, std::move(part));
  port.arrive(3, encode(DecodeReport{}, {}));
  REQUIRE(link.poll());
  CHECK(log.reports.empty());
  const auto report = link.poll();
  REQUIRE(report);
  CHECK(std::get<DecodeReported>(report->what).die == DieId{0, 0});
  CHECK(log.reports.size() == 1);
  CHECK_FALSE(link.poll());
}
