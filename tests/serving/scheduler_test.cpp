// The policy against a make-believe fleet with its own clock: no MPI, no waiting.
#include "runtime/serving/coordinator/scheduler.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"
#include "runtime/serving/load/metrics.hpp"
#include "runtime/serving/roles.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using Catch::Matchers::Contains;

namespace {

std::vector<Request> some_requests(std::size_t count, int prompt, int output, double gap_s = 0) {
  std::vector<Request> requests(count);
  for (std::size_t i = 0; i < count; ++i) {
    requests[i].id = static_cast<std::int64_t>(i);
    requests[i].arrival_s = gap_s * static_cast<double>(i);
    requests[i].output_tokens = output;
    requests[i].prompt.assign(static_cast<std::size_t>(prompt), 1);
  }
  return requests;
}

/// Answers commands after fixed times, in modelled order, and checks the limits that the scheduler promises.
class FakeFleet {
 public:
  FakeFleet(const ServingConfig& config, const std::vector<Request>& requests) : config_(config), requests_(requests) {
    for (std::size_t i = 0; i < requests.size(); ++i)
      push(static_cast<Nanoseconds>(requests[i].arrival_s * 1e9), Arrived{i});
  }

  std::vector<RequestRecord> run(int max_concurrency = 0) {
    Scheduler scheduler(config_, requests_, max_concurrency);
    while (!scheduler.done()) {
      if (events_.empty()) throw std::runtime_error("the scheduler waits for nothing");
      const auto first = events_.begin();
      const Event event = first->second;
      events_.erase(first);
      for (const Command& command : scheduler.handle(event)) perform(command, event.time);
    }
    return scheduler.records();
  }

  std::size_t largest_decode_batch = 0, largest_prefill_tokens = 0;
  std::map<std::size_t, DieId> decode_die;

 private:
  template <class What>
  void push(Nanoseconds time, What what) {
    events_.emplace(std::pair(time, serial_++), Event{time, std::move(what)});
  }

  void perform(const Command& command, Nanoseconds now) {
    if (const auto* start = std::get_if<StartPrefill>(&command)) {
      std::size_t tokens = 0;
      for (std::size_t die = 0; die < start->by_die.size(); ++die) {
        PrefillReported report{{start->instance, static_cast<int>(die)}, {}};
        for (const auto& item : start->by_die[die]) {
          const int length = static_cast<int>(requests_[item.request].prompt.size());
          tokens += static_cast<std::size_t>(length);
          decode_die[item.request] = item.decode;
          report.results.push_back({item.request, 7, length / 2, length - length / 2, 1000, 500});
        }
        push(now + 5'000'000 + static_cast<Nanoseconds>(die), report);
      }
      largest_prefill_tokens = std::max(largest_prefill_tokens, tokens);
    } else if (const auto* fetch = std::get_if<FetchKv>(&command)) {
      CHECK(fetch->decode == decode_die.at(fetch->request));
      push(now + 1'000'000, KvArrived{fetch->decode, fetch->request});
    } else {
      const auto& iterate = std::get<StartDecode>(command);
      for (std::size_t die = 0; die < iterate.joins_by_die.size(); ++die) {
        auto& running = running_[{iterate.instance, static_cast<int>(die)}];
        for (const std::size_t request : iterate.joins_by_die[die])
          running[request] = requests_[request].output_tokens - 1;
        largest_decode_batch = std::max(largest_decode_batch, running.size());
        DecodeReported report{{iterate.instance, static_cast<int>(die)}, 300, {}};
        for (auto entry = running.begin(); entry != running.end();) {
          report.tokens.push_back({entry->first, 8});
          entry = --entry->second == 0 ? running.erase(entry) : std::next(entry);
        }
        push(now + 2'000'000 + static_cast<Nanoseconds>(die), report);
      }
    }
  }

  const ServingConfig& config_;
  const std::vector<Request>& requests_;
  std::map<std::pair<Nanoseconds, int>, Event> events_;
  std::map<std::pair<int, int>, std::map<std::size_t, int>> running_;
  int serial_ = 0;
};

}  // namespace

TEST_CASE("every request ends, with all its tokens, and its parts add up exactly") {
  ServingConfig config;
  config.prefill_instances = GENERATE(1, 2);
  config.prefill_dies = GENERATE(1, 3);
  config.decode_instances = GENERATE(1, 2);
  config.decode_dies = GENERATE(1, 4);
  const int output = GENERATE(1, 2, 9);
  const auto requests = some_requests(23, 100, output, 0.001);
  const auto records = FakeFleet(config, requests).run();
  for (const RequestRecord& r : records) {
    CHECK(r.done);
    CHECK(r.tokens.size() == static_cast<std::size_t>(output));
    CHECK(r.hit_tokens + r.computed_tokens == 100);
    const PartTimes parts = parts_of(r);
    CHECK(parts.sum() == r.finished - r.arrived);
    for (const Nanoseconds part :
         {parts.queue, parts.pool, parts.prefill, parts.handover, parts.decode, parts.exchange})
      CHECK(part >= 0);
    CHECK(std::is_sorted(r.token_times.begin(), r.token_times.end()));
  }
}

TEST_CASE("limits hold: prefill batch, decode batch, KV capacity, concurrency") {
  ServingConfig config;
  const auto requests = some_requests(40, 100, 20);

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
    CHECK(fleet.largest_decode_batch <= 3);
  }
  SECTION("KV capacity") {
    config.decode_kv_tokens = 250;  // two requests of 120 a die
    FakeFleet fleet(config, requests);
    fleet.run();
    CHECK(fleet.largest_decode_batch <= 2);
  }
  SECTION("concurrency") {
    FakeFleet fleet(config, requests);
    const auto records = fleet.run(1);
    for (std::size_t i = 1; i < records.size(); ++i) CHECK(records[i].prefill_started >= records[i - 1].finished);
  }
}

TEST_CASE("requests spread over the decode dies, and nobody overtakes the head of the queue") {
  ServingConfig config;
  const auto requests = some_requests(16, 64, 4);
  FakeFleet fleet(config, requests);
  const auto records = fleet.run();
  std::map<int, int> per_die;
  for (const auto& [request, die] : fleet.decode_die) ++per_die[die.die];
  for (const auto& [die, count] : per_die) CHECK(count == 4);
  for (std::size_t i = 1; i < records.size(); ++i) CHECK(records[i].prefill_started >= records[i - 1].prefill_started);
}

TEST_CASE("a TPOT objective holds back joins while others run") {
  ServingConfig config;
  config.decode_dies = 1;
  config.tpot_objective_ms = 1;  // the fake fleet takes 2 ms an iteration
  const auto requests = some_requests(4, 10, 5, 0.02);
  FakeFleet fleet(config, requests);
  const auto records = fleet.run();
  CHECK(fleet.largest_decode_batch == 1);
  for (const RequestRecord& r : records) CHECK(r.done);
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

TEST_CASE("results carry the names that users of serving benchmarks know") {
  ServingConfig config;
  const auto requests = some_requests(10, 100, 5, 0.01);
  const auto records = FakeFleet(config, requests).run();
  MetricsOptions options;
  options.percentiles = {50, 99};
  options.goodput_ms = parse_goodput({"ttft:1000", "tpot:0.001"});
  options.save_detailed = true;
  const Json results = serving_results(requests, records, {}, options, "wall", 6);
  CHECK(results["completed"] == 10);
  CHECK(results["total_input_tokens"] == 1000);
  CHECK(results["total_output_tokens"] == 50);
  CHECK(results["pool"]["hit_tokens"].get<int>() + results["pool"]["computed_tokens"].get<int>() == 1000);
  CHECK(results["goodput"] == 0.0);
  CHECK(results["npus"] == 3.0);
  double sum = 0;
  for (const auto& [part, value] : results["parts_ms"].items()) sum += value.get<double>();
  CHECK(sum == Approx(results["mean_e2el_ms"].get<double>()));
  CHECK(results["requests"].size() == 10);
  const std::string text = serving_text(results, options);
  CHECK_THAT(text, Contains("Serving Benchmark Result") && Contains("P99 TTFT (ms):") && Contains("Request goodput"));
  CHECK_THROWS_WITH(parse_goodput({"ttft"}), Contains("'ttft' is not"));
  CHECK_THROWS_WITH(parse_goodput({"speed:3"}), Contains("'speed:3'"));
}
