// The trace of a run on the modelled clock.
#include "runtime/serving/record/trace_file.hpp"

#include <map>
#include <tuple>

#include "runtime/core/files.hpp"
#include "tests/serving/recorded_steps.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;

namespace {

ServedRequest some_request() {
  auto request = std::make_shared<Request>();
  request->id = 7;
  request->prompt = {1, 2, 3};
  ServedRequest served;
  served.request = request;
  RequestRecord& r = served.record;
  r.arrived = RunTime(RunSpan(1000));
  r.prefill_started = RunTime(RunSpan(3000));
  r.pool = RunSpan(500);
  r.first_token = RunTime(RunSpan(9000));
  r.decode_joined = RunTime(RunSpan(9500));
  r.finished = RunTime(RunSpan(20000));
  r.tokens = {5, 6};
  return served;
}

/// A trace of four steps of both instances, the third with its tasks.
Json some_trace() {
  const TemporaryPath path(".json");
  const RunHead head = small_head();
  std::vector<TraceFile::Instance> instances;
  for (const RunHead::Instance& instance : head.instances)
    instances.push_back({instance.id, static_cast<int>(instance.dies.size())});
  TraceFile trace(path.name, IfExists::refuse, instances);
  for (int step = 0; step < 4; ++step)
    for (const RunHead::Instance& instance : head.instances) {
      CHECK(trace.has_tasks() == (step == 3 || (step == 2 && instance.id.stage == emulation::Stage::decode)));
      trace.on_step(instance.id, small_step(head, instance, step, step == 2));
    }
  trace.add_series(std::vector<SeriesTable>{{"time_s", {0, 0.002, 0.004}, {3}},
                                            {"queued", {1, 1, 0}, {3}},
                                            {"misses/absent", {4, 0, 0}, {3}},
                                            {"decode/kv_tokens", {0, 70, 90}, {3, 1}}});
  trace.add_requests(std::vector<ServedRequest>{some_request()});
  trace.close();
  return parse_json(read_file(path.name), path.name)["traceEvents"];
}

using Row = std::pair<int, int>;  // process, thread

std::map<Row, std::vector<Json>> spans_by_row(const Json& events) {
  std::map<Row, std::vector<Json>> rows;
  for (const Json& event : events)
    if (event["ph"] == "X") rows[{event["pid"], event["tid"]}].push_back(event);
  return rows;
}

std::map<std::string, int> processes(const Json& events) {
  std::map<std::string, int> named;
  for (const Json& event : events)
    if (event["name"] == "process_name") named[event["args"]["name"]] = event["pid"];
  return named;
}

std::string thread_name(const Json& events, const Row& row) {
  for (const Json& event : events)
    if (event["name"] == "thread_name" && event["pid"] == row.first && event["tid"] == row.second)
      return event["args"]["name"];
  return {};
}

}  // namespace

TEST_CASE("a trace has a process an instance on both clocks, and rows that have names and do not overlap") {
  const Json events = some_trace();
  const auto named = processes(events);
  REQUIRE(named.size() == 5);
  for (const char* name : {"requests", "prefill 0", "decode 0", "wall: prefill 0", "wall: decode 0"})
    CHECK(named.contains(name));
  const auto rows = spans_by_row(events);
  // Both streams of each die beside its steps; on the wall clock the steps only.
  CHECK(rows.size() == 5 * 3 + 5);
  for (const auto& [row, spans] : rows) {
    const std::string name = thread_name(events, row);
    INFO(row.first << " " << name);
    CHECK(name.starts_with("die "));
    double last = -1;
    for (const Json& span : spans) {
      CHECK(span["dur"].get<double>() >= 0);
      CHECK(span["ts"].get<double>() >= last - 1e-9);
      last = span["ts"].get<double>() + span["dur"].get<double>();
    }
  }
  const Row first{named.at("decode 0"), 1};
  REQUIRE(rows.at(first).size() == 4);
  CHECK(thread_name(events, first) == "die 0");
  const Json& step = rows.at(first)[2];
  CHECK(step["name"] == "step 2");
  CHECK(step["args"]["tokens"].get<double>() > 0);
  CHECK(step["args"]["exchange_share"].get<double>() > 0);
  CHECK(step["args"]["exchange_share"].get<double>() <= 1);
}

TEST_CASE("the tasks of the chosen step lie within it, with layer, microbatch and phase") {
  const Json events = some_trace();
  const auto named = processes(events);
  const auto rows = spans_by_row(events);
  for (const auto& [process, dies] : std::map<std::string, int>{{"prefill 0", 2}, {"decode 0", 3}})
    for (int die = 0; die < dies; ++die) {
      const Json& step = rows.at({named.at(process), 4 * die + 1})[2];
      const double begin = step["ts"], end = begin + step["dur"].get<double>();
      int dispatches = 0, waits = 0;
      for (const int stream : {1, 2}) {
        const Row row{named.at(process), 4 * die + 1 + stream};
        CHECK(thread_name(events, row).starts_with("die " + std::to_string(die) + ": "));
        for (const Json& task : rows.at(row)) {
          CHECK(task["ts"].get<double>() >= begin);
          CHECK(task["ts"].get<double>() + task["dur"].get<double>() <= end + 1e-6);
          if (task["name"] == "wait") {
            ++waits;
            CHECK_FALSE(task["args"]["for"].get<std::string>().empty());
          }
          if (task["name"] != "dispatch") continue;
          ++dispatches;
          CHECK(task["args"]["phase"] == "dispatch");
          CHECK(task["args"]["layer"].get<int>() >= 1);
          CHECK(task["args"]["microbatch"].get<int>() < 2);
          CHECK(task["args"]["last_die_begins_later_us"].get<double>() >= 0);
        }
      }
      CHECK(dispatches == (process == "decode 0" ? 6 : 4));
      CHECK(waits > 0);
    }
}

TEST_CASE("queue, misses and KV are counters, from one change to the next") {
  const Json events = some_trace();
  const auto named = processes(events);
  std::vector<std::tuple<int, std::string, double, double>> counters;
  for (const Json& event : events)
    if (event["ph"] == "C") counters.emplace_back(event["pid"], event["name"], event["ts"], event["args"]["value"]);
  const int requests = named.at("requests"), decode = named.at("decode 0");
  const decltype(counters) expected = {{requests, "queued", 0, 1},
                                       {requests, "queued", 4000, 0},
                                       {requests, "misses/absent/s", 0, 2000},
                                       {requests, "misses/absent/s", 2000, 0},
                                       {decode, "kv_tokens", 0, 0},
                                       {decode, "kv_tokens", 2000, 70},
                                       {decode, "kv_tokens", 4000, 90}};
  CHECK(counters == expected);
}

TEST_CASE("a request is a span with its parts in it") {
  const Json events = some_trace();
  std::vector<std::pair<std::string, double>> begun, ended;
  for (const Json& event : events) {
    if (event["ph"] != "b" && event["ph"] != "e") continue;
    CHECK(event["id"] == 7);
    (event["ph"] == "b" ? begun : ended).emplace_back(event["name"], event["ts"]);
  }
  const std::vector<std::pair<std::string, double>> begins = {{"request 7", 1}, {"queue", 1},    {"pool", 3},
                                                              {"prefill", 3.5}, {"handover", 9}, {"decode", 9.5}};
  const std::vector<std::pair<std::string, double>> ends = {{"queue", 3},      {"pool", 3.5},  {"prefill", 9},
                                                            {"handover", 9.5}, {"decode", 20}, {"request 7", 20}};
  CHECK(begun == begins);
  CHECK(ended == ends);
}
