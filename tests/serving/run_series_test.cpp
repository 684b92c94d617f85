// What happened over the time of a run, and how far it is.
#include "runtime/serving/load/run_series.hpp"

#include <numeric>

#include "runtime/serving/coordinator/run_watch.hpp"
#include "runtime/serving/load/progress.hpp"
#include "tests/serving/fake_fleet.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;

namespace {

using Merge = TimeBins::Merge;

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

const SeriesTable& table(const std::vector<SeriesTable>& tables, const std::string& name) {
  for (const SeriesTable& one : tables)
    if (one.name == name) return one;
  FAIL("no table " + name);
  return tables.front();
}

}  // namespace

TEST_CASE("bins double their width and keep sums, maxima and integrals") {
  TimeBins bins(4, 1ms);
  const std::size_t count = bins.add_column(Merge::sum), most = bins.add_column(Merge::maximum),
                    level = bins.add_column(Merge::sum);
  bins.put(count, RunTime(500us), 1);
  bins.put(count, RunTime(3500us), 2);
  bins.put(most, RunTime(500us), 7);
  bins.put(most, RunTime(1500us), 5);
  bins.hold(level, RunTime(500us), RunTime(3ms), 10);
  CHECK(bins.bins() == 4);
  CHECK(bins.column(count) == std::vector<double>{1, 0, 0, 2});
  CHECK(bins.column(level)[0] == Approx(10 * 0.5e-3));
  CHECK(bins.column(level)[1] == Approx(10 * 1e-3));
  CHECK(bins.column(level)[3] == 0);

  bins.put(count, RunTime(13ms), 4);  // twice as wide, twice
  CHECK(bins.width() == 4ms);
  CHECK(bins.bins() == 4);
  CHECK(bins.column(count) == std::vector<double>{3, 0, 0, 4});
  CHECK(bins.column(most)[0] == 7);
  CHECK(bins.column(level)[0] == Approx(10 * 2.5e-3));
  // A column that comes later has the same bins.
  const std::size_t late = bins.add_column(Merge::sum);
  bins.put(late, RunTime(5ms), 1);
  CHECK(bins.column(late) == std::vector<double>{0, 1, 0, 0});
  // However long a run is, there are no more bins; no amount is lost.
  for (int i = 0; i < 1000; ++i) bins.put(count, RunTime(std::chrono::seconds(i)), 1);
  CHECK(bins.bins() <= 4);
  CHECK(sum(bins.column(count)) == 1007);
}

TEST_CASE("levels are means over time, steps and misses are counted in their bins") {
  RunSeries series(8, 10ms);
  LoadSnapshot now;
  now.prefill.resize(1);
  now.decode.resize(2);
  now.queued = 4;
  series.state(RunTime{}, now);
  now.queued = 0;
  now.decode[1] = {.requests = 6, .kv_tokens = 600, .steps = 0, .last_step = {}};
  series.state(RunTime(5ms), now);
  now.decode[1].steps = 1;
  now.decode[1].last_step = 8ms;
  series.state(RunTime(13ms), now);
  now.decode[1] = {.requests = 0, .kv_tokens = 0, .steps = 2, .last_step = 4ms};
  series.state(RunTime(17ms), now);
  series.misses(RunTime(17ms), {{"evicted", 3}});
  series.misses(RunTime(25ms), {{"evicted", 5}, {"never_stored", 1}});
  series.arrived(RunTime(1ms));
  series.token(RunTime(13ms));
  series.prefilled(RunTime(12ms), 30, 70);
  series.ended(RunTime(17ms), true);
  series.ended(RunTime(18ms), false);

  const std::vector<SeriesTable> tables = series.tables();
  CHECK(table(tables, "time_s").values == std::vector<double>{0, 0.01, 0.02});
  CHECK(table(tables, "queued").values[0] == Approx(2));  // 4 for half of the bin
  CHECK(table(tables, "queued_max").values[0] == 4);
  const SeriesTable& requests = table(tables, "decode/requests");
  CHECK(requests.shape == std::vector<std::size_t>{3, 2});
  CHECK(requests.values[1] == Approx(3));    // bin 0, instance 1
  CHECK(requests.values[3] == Approx(4.2));  // 6 for 7 ms of 10
  CHECK(table(tables, "decode/kv_tokens").values[1] == Approx(300));
  CHECK(table(tables, "decode/steps").values[3] == 2);
  CHECK(table(tables, "decode/step_ms").values[3] == Approx(6));
  CHECK(table(tables, "decode/step_ms_max").values[3] == Approx(8));
  CHECK(table(tables, "misses/evicted").values == std::vector<double>{0, 3, 2});
  CHECK(table(tables, "misses/never_stored").values == std::vector<double>{0, 0, 1});
  CHECK(table(tables, "arrived").values[0] == 1);
  CHECK(table(tables, "output_tokens").values[1] == 1);
  CHECK(table(tables, "hit_tokens").values[1] == 30);
  CHECK(table(tables, "computed_tokens").values[1] == 70);
  CHECK(table(tables, "completed").values[1] == 1);
  CHECK(table(tables, "failed").values[1] == 1);
}

TEST_CASE("what a run's series add up to is what was served") {
  ServingConfig config;
  FakeFleet fleet(config, some_requests(40, 100, 7, 0.002));
  ServedLog log;
  RunWatch watch(log);
  Scheduler scheduler(config, watch);
  coordinate(scheduler, fleet, {}, &watch);
  const std::vector<ServedRequest> served = log.take();
  const std::vector<SeriesTable> tables = watch.series();
  CHECK(sum(table(tables, "arrived").values) == 40);
  CHECK(sum(table(tables, "completed").values) == 40);
  CHECK(sum(table(tables, "output_tokens").values) == 280);
  double hits = 0, computed = 0;
  for (const ServedRequest& one : served) {
    hits += one.record.hit_tokens;
    computed += one.record.computed_tokens;
  }
  CHECK(sum(table(tables, "hit_tokens").values) == hits);
  CHECK(sum(table(tables, "computed_tokens").values) == computed);
  // Of each request's tokens all but the first came from an iteration.
  CHECK(sum(table(tables, "decode/steps").values) >= 6);
  const std::vector<double>& batch = table(tables, "decode/requests").values;
  CHECK(*std::max_element(batch.begin(), batch.end()) <= 40);
  CHECK(sum(batch) > 0);
  CHECK(sum(table(tables, "prefill/steps").values) >= 1);
  CHECK(sum(table(tables, "decode/kv_tokens").values) > 0);
}

TEST_CASE("progress is told while a run goes on, as often as time passes") {
  static double seconds;  // a clock is a function
  seconds = 0;
  ServingConfig config;
  FakeFleet fleet(config, some_requests(40, 100, 7, 0.002));
  ServedLog log;
  RunWatch watch(log);
  std::vector<std::string> lines;
  watch.report(
      Progress({0}, 10, 40), [&](const std::string& line) { lines.push_back(line); },
      [] { return WallTime{seconds += 1}; });
  Scheduler scheduler(config, watch);
  coordinate(scheduler, fleet, {}, &watch);
  CHECK(seconds > 40);  // a look at the clock for each event
  CHECK(lines.size() == static_cast<std::size_t>(seconds / 10));
  CHECK_THAT(lines.front(), Catch::Matchers::StartsWith("served 0 of 40 requests, "));
  CHECK(log.take().size() == 40);
}

TEST_CASE("a line of progress says what is done and what is left") {
  Progress progress({100}, 10, 120);
  CHECK_FALSE(progress.due({109}));
  CHECK(progress.due({110}));
  ProgressCounts counts;
  CHECK(progress.line({110}, counts) == "served 0 of 120 requests, 0 running, 0 queued, 0 tok/s");
  CHECK_FALSE(progress.due({119}));
  counts = {.done = 30, .running = 48, .queued = 12, .tokens = 12500};
  CHECK(progress.line({120}, counts) == "served 30 of 120 requests, 48 running, 12 queued, 1250 tok/s, 60 s left");
  Progress endless({0}, 10, 0);
  CHECK(endless.line({10}, counts) == "served 30 requests, 48 running, 12 queued, 1250 tok/s");
}
