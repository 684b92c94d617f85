// supernode serve --record and --trace-out, and supernode replay.
#include <fstream>
#include <map>

#include "runtime/core/result_reader.hpp"
#include "tests/support/run_command.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

/// 8 ranks: two prefill instances of a die, a decode instance of four, a cache host.
const std::string shape_run =
    "serve --config configs/deployments/paper-small.ini --serving.prefill-dies 1 --serving.decode-dies 4 "
    "--modelled.experts 12 --modelled.prefill-redundant 0 --format json ";

std::string some_trace() {
  const std::string path = scratch_path("requests.jsonl");
  std::ofstream file(path);
  for (int i = 0; i < 12; ++i)
    file << R"({"timestamp": )" << 40 * i << R"(, "input_length": )" << 700 + 90 * i << R"(, "output_length": )"
         << 4 + i % 5 << R"(, "hash_ids": [)" << i % 3 << ", " << 100 + i << (700 + 90 * i > 1024 ? ", 9" : "")
         << (700 + 90 * i > 1536 ? ", 8" : "") << "]}\n";
  return path;
}

Json serve(const std::string& options) { return document_of(supernode_on(8, shape_run + options))["results"]; }
Json replay(const std::string& options) {
  return document_of(supernode_alone("replay --format json " + options))["results"];
}

/// A record of the run that all tests share, and what the run said.
struct Recorded {
  std::string path = scratch_path("run.h5"), trace = scratch_path("run.json");
  Json results = serve("--trace " + some_trace() + " --record " + path + " --trace-out " + trace);
};
const Recorded& recorded() {
  static const Recorded run;
  return run;
}

std::string with_slow_links() {
  std::string machine = read_file(SUPERNODE_SOURCE_DIR "/configs/machines/cloudmatrix384.ini");
  for (const std::string key : {"lane_gbps", "die_to_die_gbps"}) {
    const std::size_t at = machine.find("\n" + key + " =");
    REQUIRE(at != std::string::npos);
    machine.replace(at, machine.find('\n', at + 1) - at, "\n" + key + " = 0.5");
  }
  return scratch_file("slow.ini", machine);
}

/// What a run says of the modelled machine; the rest is of the hosts.
std::string modelled_part(Json results) {
  results.erase("wall_s");
  results.erase("modelled_over_wall");
  return results.dump();
}

/// All data of an instance in a record.
std::pair<std::vector<std::int64_t>, std::vector<std::byte>> data_of(const ResultReader& file,
                                                                     const std::string& group) {
  std::pair<std::vector<std::int64_t>, std::vector<std::byte>> data;
  for (const char* name : {"/starts", "/ends", "/record_bytes"}) {
    const auto shape = file.shape(group + name);
    std::vector<std::int64_t> values(shape[0] * shape[1]);
    file.read_rows(group + name, 0, std::span(values));
    data.first.insert(data.first.end(), values.begin(), values.end());
  }
  data.second.resize(file.shape(group + "/records")[0]);
  file.read_rows(group + "/records", 0, std::span(data.second));
  return data;
}

}  // namespace

TEST_CASE("a record and a trace change nothing of a run, and two runs give equal records") {
  const std::string again = scratch_path("again.h5");
  // All ranks on one processor, and none of the files of the other run.
  const Json results = document_of(
      supernode_on(8, shape_run + "--trace " + some_trace() + " --record " + again, "taskset -c 0 "))["results"];
  CHECK(modelled_part(results) == modelled_part(recorded().results));
  CHECK(modelled_part(serve("--trace " + some_trace())) == modelled_part(recorded().results));
  const ResultReader one(recorded().path), other(again);
  for (const char* attribute : {"format", "format_version", "program_version", "machine_name", "machine", "model"}) {
    CHECK_FALSE(one.attribute("/", attribute).empty());
    CHECK(one.attribute("/", attribute) == other.attribute("/", attribute));
  }
  for (const char* group : {"/prefill/0", "/prefill/1", "/decode/0"}) {
    INFO(group);
    CHECK(one.attribute(group, "setup") == other.attribute(group, "setup"));
    CHECK(data_of(one, group).first.size() >= 6);
    CHECK(data_of(one, group) == data_of(other, group));
  }
}

TEST_CASE("replayed on its own machine a run gives its own ends and terms") {
  const Json replayed = replay(recorded().path);
  CHECK(replayed["other_ends"] == 0);
  CHECK(replayed["machine"] == "cloudmatrix384");
  REQUIRE(replayed["instances"].size() == 3);
  REQUIRE(replayed["stages"].size() == 2);
  for (const Json& stage : replayed["stages"]) {
    const std::string name = stage["stage"];
    INFO(name);
    CHECK(stage["ratio"] == 1);
    CHECK(stage["steps"] == recorded().results["step_terms_s"][name + ": steps"]);
    for (const auto& [term, seconds] : stage["terms_s"].items()) {
      CHECK(seconds["recorded"] == seconds["replayed"]);
      CHECK(seconds["recorded"] == recorded().results["step_terms_s"][name + ": " + term]);
    }
    for (const auto& [term, seconds] : stage["exchange_terms_s"].items())
      CHECK(seconds["replayed"] == recorded().results["step_terms_s"][name + ": exchange: " + term]);
  }
}

TEST_CASE("replayed on a machine with slower links a run spends longer in dispatch and combine") {
  const std::string output = scratch_path("replayed.h5"), slow = with_slow_links();
  const Json replayed = replay(recorded().path + " --machine " + slow + " --output " + output);
  const Json& decode = replayed["stages"][1];
  REQUIRE(decode["stage"] == "decode");
  CHECK(decode["ratio"].get<double>() > 1.1);
  for (const char* term : {"dispatch", "combine"})
    CHECK(decode["terms_s"][term]["replayed"].get<double>() > decode["terms_s"][term]["recorded"].get<double>());
  // Of the dies that end last, which need not be the same.
  CHECK(decode["terms_s"]["dense layer"]["replayed"].get<double>() ==
        Approx(decode["terms_s"]["dense layer"]["recorded"].get<double>()).epsilon(0.05));
  CHECK(decode["median_step_ms"]["replayed"].get<double>() > decode["median_step_ms"]["recorded"].get<double>());
  CHECK(ResultReader(output).shape("decode/0/replayed_ms")[0] == decode["steps"]);
  // As text, and under a launcher.
  const Outcome text = supernode_on(2, "replay --record " + recorded().path + " --machine " + slow);
  CHECK(text.code == 0);
  CHECK_THAT(text.out, Contains("all decode") && Contains("exchange: ") && Contains("prefill 1"));
}

TEST_CASE("the steps of a model that computes are recorded as well") {
  const std::string path = scratch_path("real.h5");
  const Json results = document_of(supernode_on(
      8, "serve --config configs/quickstart.ini --max-requests 4 --machine cloudmatrix384 --format json --record " +
             path))["results"];
  const Json replayed = replay(path);
  CHECK(replayed["other_ends"] == 0);
  for (const Json& stage : replayed["stages"])
    CHECK(stage["steps"] == results["step_terms_s"][stage["stage"].get<std::string>() + ": steps"]);
}

TEST_CASE("a trace has every step of every die, on both clocks, and the layers of the chosen one") {
  const Json events = parse_json(read_file(recorded().trace), recorded().trace)["traceEvents"];
  std::map<int, std::string> processes;
  std::map<std::pair<int, int>, std::string> threads;
  std::map<std::pair<int, int>, std::vector<Json>> rows;
  int requests = 0;
  for (const Json& event : events) {
    if (event["name"] == "process_name") processes[event["pid"]] = event["args"]["name"];
    if (event["name"] == "thread_name") threads[{event["pid"], event["tid"]}] = event["args"]["name"];
    if (event["ph"] == "X") rows[{event["pid"], event["tid"]}].push_back(event);
    requests += event["ph"] == "b" && event["name"].get<std::string>().starts_with("request ");
  }
  CHECK(requests == 12);
  CHECK(processes.size() == 7);
  std::map<std::string, std::size_t> steps;
  for (const auto& [row, spans] : rows) {
    const std::string name = processes.at(row.first) + ", " + threads.at(row);
    INFO(name);
    double last = -1;
    for (const Json& span : spans) {
      CHECK(span["ts"].get<double>() >= last - 1e-6);
      last = span["ts"].get<double>() + span["dur"].get<double>();
      steps[name] += span["name"].get<std::string>().find(':') == std::string::npos;
    }
  }
  const auto decode_steps = recorded().results["step_terms_s"]["decode: steps"].get<std::size_t>();
  for (const char* clock : {"", "wall: "})
    for (const char* die : {"die 0", "die 1", "die 2", "die 3"})
      CHECK(steps[std::string(clock) + "decode 0, " + die] == decode_steps);
  for (const auto& [row, name] : threads) {
    if (processes[row.first] != "decode 0" || name.find(':') == std::string::npos) continue;
    const auto& all = rows.at({row.first, row.second / 4 * 4 + 1});
    const double begin = all[3]["ts"], end = begin + all[3]["dur"].get<double>();
    CHECK(rows.at(row).size() > 50);
    for (const Json& task : rows.at(row)) {
      CHECK(task["ts"].get<double>() >= begin);
      CHECK(task["ts"].get<double>() + task["dur"].get<double>() <= end + 1e-3);
    }
  }
}

TEST_CASE("a steady load can be recorded and traced; a step that never comes is named") {
  const std::string path = scratch_path("steady.json"), record = scratch_path("steady.h5");
  const Outcome outcome = supernode_on(8, shape_run +
                                              "--workload steady --batch-per-npu 8 --prompt-tokens 400 --output-tokens "
                                              "64 --steps 8 --trace-step 1000 --trace-out " +
                                              path + " --record " + record);
  CHECK(outcome.code == 0);
  CHECK_THAT(outcome.err, Contains("no instance came to step 1000"));
  CHECK(parse_json(read_file(path), path)["traceEvents"].size() > 8 * 4 * 2);
  const Json replayed = replay(record);
  CHECK(replayed["other_ends"] == 0);
  CHECK(replayed["instances"][0]["steps"] == 0);  // no prompt is prefilled
  CHECK(replayed["instances"][0]["ratio"].is_null());
  REQUIRE(replayed["stages"].size() == 1);
  CHECK(replayed["stages"][0]["steps"].get<int>() >= 8);
}

TEST_CASE("records and traces that cannot be made are refused before the run, in one line") {
  const std::string there = scratch_file("there", "x");
  const auto refused = [](int ranks, const std::string& options, int code, const std::string& why) {
    INFO(options);
    check_refused(supernode_on(ranks, options), code, why);
  };
  const std::string wall = "serve --config configs/quickstart.ini ", trace = "--trace " + some_trace();
  refused(1, wall + "--record x.h5", 2, "--record needs --machine");
  refused(1, wall + "--trace-out x.json", 2, "--trace-out needs --machine");
  refused(8, shape_run + trace + " --record " + there, 2, "never overwritten");
  refused(8, shape_run + trace + " --trace-out " + there, 2, "never overwritten");
  refused(8, shape_run + trace + " --record /nowhere/x.h5", 3, "No such file or directory");
  const std::string twice = scratch_path("twice");
  refused(8, shape_run + trace + " --record " + twice + " --trace-out " + twice, 2, "named twice");
  refused(8, shape_run + trace + " --output " + twice + " --trace-out " + twice, 2, "named twice");
  CHECK_FALSE(fs::exists(twice));
  CHECK(read_file(there) == "x");
}

TEST_CASE("what is no record, or does not fit a machine, is refused in one line") {
  const auto refused = [](const std::string& options, const std::string& why) {
    INFO(options);
    check_refused(supernode_alone("replay " + options), 2, why);
  };
  refused("", "--record is missing");
  refused("nowhere.h5", "nowhere.h5: no such file");
  refused("README.md", "README.md: not an HDF5 file");
  const std::string whole = read_file(recorded().path);
  refused(scratch_file("half.h5", whole.substr(0, whole.size() / 2)), "not an HDF5 file, or truncated");
  const std::string other = scratch_path("validated.h5");
  REQUIRE(supernode_alone("validate --output " + other).code == 0);
  refused(other, "no record of a run");
  refused(recorded().path + " --machine nowhere", "'nowhere' is not in");
  refused(recorded().path + " --machine laptop", "laptop.ini has");
  refused(recorded().path + " --output " + recorded().path, "never overwritten");
  refused(recorded().path + " second.h5", "given more than once");
}
