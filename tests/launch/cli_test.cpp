// The program as its users meet it: started from a shell, judged by stdout, stderr and exit code.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"
#include "tests/moe/changed_model.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
  /// Our own lines on stderr; a launcher adds some of its own.
  std::vector<std::string> complaints() const {
    std::vector<std::string> lines;
    std::size_t begin = 0;
    while (begin < err.size()) {
      const auto end = std::min(err.find('\n', begin), err.size());
      const std::string line = err.substr(begin, end - begin);
      if (line.starts_with("supernode:")) lines.push_back(line);
      begin = end + 1;
    }
    return lines;
  }
};

/// A folder for this process, gone at its end.
const fs::path& scratch() {
  struct Folder {
    fs::path path = fs::temp_directory_path() / ("supernode-cli-" + std::to_string(::getpid()));
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
  };
  static const Folder folder;
  return folder.path;
}

std::string scratch_file(const std::string& name, const std::string& content) {
  const fs::path path = scratch() / name;
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
  return path.string();
}

Outcome shell(const std::string& command) {
  const std::string out = (scratch() / "out").string(), err = (scratch() / "err").string();
  const int status = std::system((command + " > " + out + " 2> " + err + " < /dev/null").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, read_file(out), read_file(err)};
}

/// @param ranks 0: without a launcher
Outcome supernode_on(int ranks, const std::string& arguments, const std::string& before = "") {
  const std::string launcher =
      ranks == 0 ? "" : SUPERNODE_MPIRUN " " + std::to_string(ranks) + " " SUPERNODE_MPIRUN_FLAGS " ";
  return shell("cd " SUPERNODE_SOURCE_DIR " && " + before + " timeout 120 " + launcher + SUPERNODE_BINARY " " +
               arguments);
}

Json json_of(const Outcome& outcome) {
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  return parse_json(outcome.out, "stdout");
}

}  // namespace

TEST_CASE("help and version need no launcher, for every command") {
  const Outcome help = supernode_on(0, "--help");
  CHECK(help.code == 0);
  for (const char* command : {"serve", "generate", "eval", "bench exchange", "bench tune", "bench model", "bench pool",
                              "import", "inspect", "place", "plan", "validate", "topo", "config"}) {
    CHECK_THAT(help.out, Contains(command));
    const Outcome own = supernode_on(0, std::string(command) + " --help");
    CHECK(own.code == 0);
    CHECK_THAT(own.out, Contains("Options of every command:"));
  }
  CHECK(supernode_on(0, "").code == 0);
  CHECK_THAT(supernode_on(0, "--version").out, Contains("supernode 0."));
  const Outcome many = supernode_on(3, "--help");
  CHECK(many.out == help.out);
}

TEST_CASE("config prints a file that gives the same configuration") {
  const Outcome first = supernode_on(0, "config --serving.decode-dies 7 --pool.capacity 3M");
  REQUIRE(first.code == 0);
  CHECK_THAT(first.out, Contains("decode_dies = 7") && Contains("capacity = 3M"));
  const std::string path = scratch_file("printed.ini", first.out);
  const Outcome second = supernode_on(0, "config --config " + path);
  CHECK(second.code == 0);
  // The one difference is where it was read from.
  std::string expected = first.out;
  const auto place = expected.find("config = \n");
  REQUIRE(place != std::string::npos);
  expected.replace(place, 10, "config = " + path + "\n");
  CHECK(second.out == expected);
  CHECK_THAT(supernode_on(0, "config", "SUPERNODE_SERVING__DECODE_DIES=9").out, Contains("decode_dies = 9"));
}

TEST_CASE("topo shows every rank on the emulated machine and on its host") {
  const Json topo = json_of(supernode_on(3, "topo --format json"));
  CHECK(topo["schema"] == "supernode.topo/1");
  CHECK(topo["env"]["ranks"] == 3);
  CHECK(topo["results"]["machine"]["dies"] == 768);
  REQUIRE(topo["results"]["ranks"].size() == 3);
  CHECK(topo["results"]["ranks"][2]["npu"] == 1);
}

TEST_CASE("serve completes a small trace, and its figures add up") {
  const std::string output = (scratch() / "serve.h5").string();
  const Json document = json_of(supernode_on(8,
                                             "serve --config configs/quickstart.ini --max-requests 12 --time-scale 0 "
                                             "--max-concurrency 1 --save-detailed --save-tokens "
                                             "--format json --output " +
                                                 output));
  const Json& results = document["results"];
  CHECK(results["completed"] == 12);
  CHECK(results["failed"] == 0);
  const Json& pool = results["pool"];
  CHECK(pool["hit_tokens"].get<int>() > 0);
  CHECK(pool["hit_tokens"].get<int>() + pool["computed_tokens"].get<int>() == results["total_input_tokens"].get<int>());
  CHECK(fs::file_size(output) > 1000);
  const Json* hit = nullptr;
  for (const Json& request : results["requests"]) {
    CHECK(request["hit_tokens"].get<int>() + request["computed_tokens"].get<int>() ==
          request["input_tokens"].get<int>());
    double sum = 0;
    for (const auto& [part, value] : request["parts_ms"].items()) {
      CHECK(value.get<double>() >= 0);
      sum += value.get<double>();
    }
    CHECK(sum == Approx(request["e2el_ms"].get<double>()).epsilon(1e-12));
    if (request["hit_tokens"].get<int>() > 0 && request["output_tokens"].get<int>() > 4) hit = &request;
  }
  // What was served with a prefix from the pool is what the model says to the whole prompt at once.
  REQUIRE(hit);
  std::string ids;
  for (const Json& token : (*hit)["prompt_token_ids"])
    ids += (ids.empty() ? "" : ",") + std::to_string(token.get<int>());
  const Json generated = json_of(supernode_on(2, "generate --format json --prompt-tokens " + ids + " --max-tokens " +
                                                     std::to_string((*hit)["output_tokens"].get<int>())));
  CHECK(generated["results"]["tokens"] == (*hit)["output_token_ids"]);
  // Results are never overwritten.
  const Outcome again = supernode_on(1, "topo --output " + output);
  CHECK(again.code == 2);
  CHECK_THAT(again.err, Contains("never overwritten"));
}

TEST_CASE("validate holds the shipped machines against the published tables, and can fail") {
  const Json document = json_of(supernode_on(0, "validate --format json"));
  CHECK(document["schema"] == "supernode.validate/1");
  const Json& results = document["results"];
  CHECK(results["passed"] == true);
  CHECK(results["rows"].size() >= 100);
  for (const Json& row : results["rows"]) {
    const double published = row["published"], modelled = row["modelled"], error = row["error_pct"];
    CHECK(error == Approx(100 * (modelled / published - 1)).margin(1e-6));
    CHECK((row["kind"] == "fit" || row["kind"] == "predicted"));
  }
  const Outcome strict = supernode_on(0, "validate --tolerance 0.1");
  CHECK(strict.code == 1);
  CHECK_THAT(strict.out, Contains("FAILED"));
  const Outcome terms = supernode_on(0, "validate --explain decode_layer_mtp");
  CHECK(terms.code == 0);
  CHECK_THAT(terms.out, Contains("dispatch") && Contains("absorb"));
}

TEST_CASE("plan finds a deployment within the objectives") {
  const std::string trace = (scratch() / "plan.json").string();
  const Json document = json_of(supernode_on(0, "plan --format json --runners-up 2 --trace " + trace));
  const Json& best = document["results"]["best"];
  CHECK(best["tpot_ms"].get<double>() <= 50);
  CHECK(best["npus"].get<int>() <= 256);
  CHECK(document["results"]["runners_up"].size() == 2);
  CHECK(best["output_tokens_per_s_per_npu"].get<double>() >=
        document["results"]["published"]["output_tokens_per_s_per_npu"].get<double>());
  CHECK(parse_json(read_file(trace), trace)["traceEvents"].size() > 100);
  const Json given =
      json_of(supernode_on(0, "plan --format json --decode-npus 72 --decode-instances 2 --batch 64 --prefill-npus 16"));
  CHECK(given["results"]["best"]["decode"]["npus"] == 72);
  CHECK(given["results"]["best"]["decode"]["instances"] == 2);
  CHECK(given["results"]["best"]["decode"]["batch_per_npu"] == 64);
  const Outcome impossible = supernode_on(0, "plan --tpot 0.1");
  CHECK(impossible.code == 1);
  CHECK(impossible.complaints().size() == 1);
}

TEST_CASE("a cache rank that is lost costs hits with that reason; every request completes") {
  const Json results = json_of(supernode_on(8,
                                            "serve --config configs/quickstart.ini --max-requests 6 --time-scale 0 "
                                            "--pool.deadline 0.3 --inject owner_loss+4 --format json"))["results"];
  CHECK(results["completed"] == 6);
  CHECK(results["failed"] == 0);
  const Json& pool = results["pool"];
  CHECK(pool["miss_reasons"]["owner_down"].get<int>() > 0);
  CHECK(pool["hit_tokens"].get<int>() + pool["computed_tokens"].get<int>() == results["total_input_tokens"].get<int>());
}

TEST_CASE("bench exchange fills in every key, and its table begins with bytes") {
  const std::string matrix = (scratch() / "matrix.h5").string();
  const std::string common = "bench exchange --hidden 64 --num-experts 8 --num-topk 2 --num-tokens 1:4 -i 6 ";
  const Json document = json_of(supernode_on(2, common +
                                                    "--op roundtrip --algorithm all,auto --machine cloudmatrix384 "
                                                    "--format json --matrix " +
                                                    matrix));
  CHECK(document["schema"] == "supernode.bench.exchange/1");
  const Json& results = document["results"];
  CHECK(results.size() % 3 == 0);
  CHECK(fs::file_size(matrix) > 1000);
  for (const Json& row : results) {
    for (const char* key : {"op", "algorithm", "ranks", "hosts", "num_tokens", "hidden", "num_topk", "num_experts",
                            "payload", "routing", "bytes_per_rank", "iterations", "algbw_GBps", "busbw_GBps",
                            "limit_us", "model_us", "wrong", "oversubscribed"})
      CHECK((row.contains(key) && !row[key].is_null()));
    for (const char* key : {"min", "mean", "p50", "p90", "p99", "ci95"}) CHECK(row["wall_us"][key].get<double>() >= 0);
    CHECK(row["iterations"] == 6);
    CHECK(row["wrong"] == 0);
    CHECK(row["vs_best"]["turns"].get<int>() >= 1);
    CHECK(row["vs_best"]["ratio"].get<double>() > 0);
    if (row["algorithm"] == row["vs_best"]["best"] && row["requested_algorithm"] != "auto")
      CHECK(row["vs_best"]["ratio"] == 1);
    CHECK((row["requested_algorithm"] == "auto") == row["rule"].is_string());
  }
  std::istringstream table(supernode_on(2, common).out);
  int rows = 0;
  for (std::string line; std::getline(table, line);)
    if (!line.starts_with("#")) rows += line.find_first_not_of("0123456789") > 0;
  CHECK(rows == 3);
  const std::string plain = supernode_on(2, "bench exchange --op alltoallv -m 8:16 -i 6").out;
  CHECK_THAT(plain, Contains("\n8 ") && Contains("\n16 "));
}

TEST_CASE("bench exchange ends with 1 for a wrong element, with 3 for a rank that stopped") {
  const std::string common = "bench exchange --hidden 64 --num-experts 8 --num-topk 8 --num-tokens 4 -i 6 --inject ";
  const Outcome wrong = supernode_on(2, common + "corrupt:1:2");
  CHECK(wrong.code == 1);
  CHECK_THAT(wrong.err, Contains("bench exchange: 1 wrong elements"));
  const Outcome stopped = supernode_on(2, common + "stop:1:2 --deadline 1");
  CHECK(stopped.code == 3);
  CHECK_THAT(stopped.err, Contains("from rank 1 within 1 s"));
  const Outcome plain = supernode_on(2, "bench exchange --op alltoallv -m 8 -i 6 --inject stop:1:2 --deadline 1");
  CHECK(plain.code == 3);
  CHECK_THAT(plain.err, Contains("rank 1: has not come to MPI_Alltoallv within 1 s"));
}

TEST_CASE("bench tune writes rules that auto obeys") {
  const std::string shape = "--hidden 64 --num-experts 8 --num-topk 2 -i 6 ";
  const std::string rules = (scratch() / "tuned.rules").string();
  for (const int ranks : {2, 3, 2}) {
    const Outcome tuned = supernode_on(ranks, "bench tune " + shape + "--num-tokens 1:8 --rules-file " + rules);
    INFO(tuned.err);
    CHECK(tuned.code == 0);
    CHECK_THAT(tuned.out, Contains("written to " + rules));
  }
  const std::string text = read_file(rules);
  CHECK_THAT(text, Contains("# tuned for hosts 1 ranks 2:") && Contains("# tuned for hosts 1 ranks 3:"));
  CHECK(text.find("ranks 2:") == text.rfind("ranks 2:"));
  const Json document =
      json_of(supernode_on(2, "bench exchange " + shape + "--num-tokens 4 --format json --exchange.rules " + rules));
  const Json& row = document["results"][0];
  CHECK(row["requested_algorithm"] == "auto");
  CHECK_THAT(row["rule"].get<std::string>(), Contains(rules + ":"));
}

TEST_CASE("bad input gets one clear line and exit code 2") {
  const std::string serve = "serve --config configs/quickstart.ini --trace ";
  const std::string good_trace = read_file(test::source_path("configs/traces/quickstart.jsonl"));
  const std::string model_dir = test::source_path("configs/models/shakespeare-moe");
  const std::string config_text = read_file(model_dir + "/config.json");

  const auto model_with = [&](const std::string& name, const std::string& config, bool weights) {
    scratch_file(name + "/config.json", config);
    if (weights) {
      const fs::path link = scratch() / name / "model.safetensors";
      fs::remove(link);
      fs::create_symlink(model_dir + "/model.safetensors", link);
    }
    return (scratch() / name).string();
  };
  const std::string half_weights = model_with("half", config_text, false);
  scratch_file("half/model.safetensors", read_file(model_dir + "/model.safetensors").substr(0, 1'000'000));
  const std::string no_shard = model_with("no-shard", config_text, false);
  scratch_file("no-shard/model.safetensors.index.json",
               R"({"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}})");

  struct Row {
    int ranks;
    std::string arguments, expected;
  };
  const std::vector<Row> rows{
      // traces
      {8, serve + "/nowhere.jsonl", "/nowhere.jsonl"},
      {8, serve + scratch_file("empty.jsonl", ""), "the trace is empty"},
      {8, serve + scratch_file("cut.jsonl", good_trace.substr(0, good_trace.size() - 40)), "is the file truncated?"},
      {8, serve + scratch_file("garbage.jsonl", std::string("\x7f\x45\x4c\x46\x00\x01", 6)), "garbage.jsonl:1"},
      {8, serve + "configs", "configs"},
      {8, "serve --serving.max-model-len 100", "--trace is missing"},
      {8, serve + "quickstart --inject owner_fire", "known: owner_stall, owner_loss"},
      {8, serve + "quickstart --inject owner_loss:7", "there is no cache rank 7"},
      // sizes
      {3, "serve --config configs/quickstart.ini", "needs 8 ranks"},
      {8, "serve --config configs/quickstart.ini --length-scale 1", "exceed the limit"},
      {2, "generate --prompt " + std::string(5000, 'x'), "4096"},
      {1, "generate --prompt-tokens 1,2,999", "999"},
      // the pool
      {2, "bench pool --op take", "take"},
      {2, "bench pool --clients 3", "leave no owner"},
      {1, "bench pool --block-bytes 1G", "pool.capacity"},
      {1, "bench pool --pool.granule 100", "pool.granule"},
      {1, "bench pool --pool.transport fast", "fast"},
      {1, "bench pool --pool.directory-sync never", "never"},
      {1, "bench pool --plot x.svg", "only the curve of a --trace"},
      {1, "bench pool --trace configs/traces/quickstart.jsonl --plot x.gif", ".svg, .png or .dat"},
      {1, "bench pool --trace configs/traces/quickstart.jsonl --curve-blocks 0", "--curve-blocks"},
      {1, "bench pool --trace /nowhere.jsonl", "/nowhere.jsonl"},
      {7, serve + "quickstart --model-from-pool --serving.cache-ranks 0", "serving.cache_ranks is 0"},
      {8, serve + "quickstart --model-from-pool --pool.capacity 4M", "pool.capacity"},
      // configurations
      {2, "topo --config /nowhere.ini", "/nowhere.ini"},
      {2, "topo --config " + scratch_file("odd.ini", "[serving]\nodd = 1\n"), "odd.ini:2: [serving] odd: unknown key"},
      {2, "topo --config " + scratch_file("cut.ini", "[serving]\ndecode_dies ="), "cut.ini:2"},
      {2, "topo --config " + scratch_file("garbage.ini", "\x01\x02\x03"), "garbage.ini:1"},
      {1, "topo --config configs", "directory"},
      // options
      {2, "generate --unknown 1", "unknown option '--unknown'"},
      {2, "generate --max-tokens many", "--max-tokens"},
      {2, "generate --prompt some words", "unexpected argument 'words'"},
      {0, "generat", "unknown command 'generat'"},
      {0, "bench nothing", "unknown command 'bench nothing'"},
      {0, "config --serving.decode-dies 0", "--serving.decode-dies"},
      {2, "bench exchange --algorithm fastest", "fastest"},
      {2, "bench exchange --num-tokens 8:4", "--num-tokens '8:4': a range is MIN:MAX"},
      {2, "bench exchange --num-tokens many", "--num-tokens 'many'"},
      {2, "bench exchange --inject crash:1", "injection 'crash:1' unknown; known: stall:RANK:MS"},
      {2, "bench exchange --inject stop:2", "ranks are 0 to 1"},
      {2, "bench exchange --op alltoallv --algorithm direct", "--algorithm is not for --op alltoallv"},
      {2, "bench exchange -m 1:8", "--message-bytes is for --op alltoallv"},
      {2, "bench exchange --routing file", "--routing file needs --routing-file"},
      {2, "bench exchange --routing file --routing-file /nowhere.json", "/nowhere.json"},
      {2, "bench exchange --routing file --routing-file " + scratch_file("cut.json", R"({"logical_count": [[1, 2)"),
       "cut.json:1: not a JSON object"},
      {2,
       "bench exchange --num-experts 4 --routing file --routing-file " +
           scratch_file("counts.json", R"({"logical_count": [[1, 2]]})"),
       "counts.json: recorded with 2 experts, not 4"},
      {2, "bench exchange --exchange.rules " + scratch_file("short.rules", "# mine\n1 * * direct\n"),
       "short.rules:2: a rule is 'hosts ranks bytes skew algorithm'"},
      {2, "bench exchange --exchange.rules " + scratch_file("odd.rules", "1 * * * fastest\n"),
       "odd.rules:1: exchange algorithm 'fastest' unknown"},
      {2, "bench exchange --exchange.rules /nowhere.rules", "/nowhere.rules"},
      {2, "bench exchange --machine nowhere", "nowhere"},
      {2, "bench tune --rules-file " + scratch_file("old.rules", "1 2 * * bogus\n"), "old.rules:1: exchange algorithm"},
      {2, "bench tune --rules-file /nowhere/x.rules", "'/nowhere' is no folder"},
      {2, "bench tune --num-tokens 0,8", "0 tokens"},
      {2, "bench exchange --matrix " + scratch_file("there.h5", ""), "never overwritten"},
      {2, "topo --machine nowhere", "nowhere"},
      // the modelled machine
      {0, "validate --table 99", "--table '99' is unknown; known: 1 2 7"},
      {0, "validate --explain ems", "did you mean one of 'cold_start_s ems'"},
      {0, "validate --explain nonsense", "`supernode validate` lists them"},
      {0, "validate --machine nowhere", "nowhere"},
      {0, "plan --set fabric.planes", "write section.key=value"},
      {0, "plan --set fabric.plains=3", "fabric.plains"},
      {0, "plan --npus 100000", "has 384"},
      {0, "plan --expert-load zipf:x", "'x' is not a number"},
      {0, "plan --model " + scratch_file("odd/config.json", "{}"), "odd/config.json"},
      // checkpoints
      {2, "generate --prompt x --model /nowhere", "/nowhere"},
      {2, "generate --prompt x --model " + model_with("empty-config", "", true), "config.json"},
      {2, "generate --prompt x --model " + model_with("cut-config", config_text.substr(0, 100), true), "config.json"},
      {2, "generate --prompt x --model " + model_with("odd-config", "[1, 2]", true), "config.json"},
      {2, "generate --prompt x --model " + model_with("no-weights", config_text, false), "model.safetensors"},
      {2, "generate --prompt x --model " + half_weights, "model.safetensors"},
      {2, "generate --prompt x --model " + no_shard, "model-00001-of-00002.safetensors"},
      {8, serve + "quickstart --model " + half_weights, "model.safetensors"},
      {2, "eval --text /nowhere.txt", "/nowhere.txt"},
      {1, "import --model " + half_weights + " --output " + (scratch() / "half.h5").string(), "model.safetensors"},
      {1, "import --model configs/models/shakespeare-moe", "--output: a new HDF5 file is needed"},
      {1, "inspect --model " + scratch_file("text.h5", "not HDF5"), "text.h5"},
      {1, "place --ranks 4 --load " + scratch_file("load.json", R"({"logical_count": [[1, 2], [3]]})"), "load.json"},
      {1, "place --ranks 4 --load /nowhere.json", "/nowhere.json"},
      {2, "bench model --experts 4 --topk 5", "--topk 5 exceeds --experts 4"},
      {2, "bench model --dtype fp4", "--dtype"},
      {2, "bench model --hidden 200000 --layers 1000 --experts 4096", "GiB on a host with 2 ranks"},
      {2, "bench model --output " + scratch_file("kept.h5", ""), "kept.h5': it exists"},
      {1, "place --ranks 2 --load " + scratch_file("huge.json", R"({"logical_count": [[1e308, 1e308]]})"),
       "logical_count[0][0] is not a count"},
      {2, "generate --prompt x --model ''", "--model: a folder or an HDF5 file is needed"},
      {2, "generate --prompt x --tokens-file " + half_weights + "/model.safetensors", "give one of --prompt"},
      {1, "eval --text " + scratch_file("short.txt", ""), "short.txt"},
  };
  for (const Row& row : rows) {
    const Outcome outcome = supernode_on(row.ranks, row.arguments);
    INFO(row.ranks << " ranks: " << row.arguments.substr(0, 200) << "\n" << outcome.err);
    CHECK(outcome.code == 2);
    CHECK(outcome.complaints().size() == 1);
    CHECK_THAT(outcome.err, Contains(row.expected));
    CHECK(outcome.out.empty());
  }
}

TEST_CASE("bench pool explains itself, measures, and draws the hit rate of a trace") {
  const Outcome help = supernode_on(0, "bench pool --help");
  CHECK(help.code == 0);
  for (const char* option : {"--op", "--block-bytes", "--clients", "--trace", "--plot"})
    CHECK_THAT(help.out, Contains(option));
  const Json timed = json_of(supernode_on(2, "bench pool --op mixed -m 4K:8K -i 20 --pool.capacity 8M --format json"));
  REQUIRE(timed["results"].size() == 2);
  CHECK(timed["results"][1]["block_bytes"] == 8192);
  CHECK(timed["results"][1]["wrong"] == 0);
  CHECK(timed["results"][1].contains("huge_page_bytes"));

  const std::string replay = "bench pool --trace configs/traces/quickstart.jsonl --curve-blocks 100,100000 --plot ";
  const std::string picture = (scratch() / "curve.svg").string(), numbers = (scratch() / "curve.dat").string();
  const Outcome drawn = supernode_on(1, replay + picture);
  CHECK(drawn.code == 0);
  CHECK_THAT(drawn.out, Contains("# plotted: " + picture));
  CHECK((fs::exists(picture) || fs::exists(picture + ".dat")));  // without gnuplot
  CHECK(supernode_on(1, replay + numbers).code == 0);
  CHECK_THAT(read_file(numbers), Contains("100000 "));
  const Outcome again = supernode_on(1, replay + numbers);
  CHECK(again.code == 2);
  CHECK_THAT(again.err, Contains("never overwritten"));
}

TEST_CASE("a pool directory that cannot be used is exit code 3, on all ranks alike") {
  const Outcome outcome = supernode_on(2, "bench pool --pool.directory /proc/pool");
  CHECK(outcome.code == 3);
  CHECK(outcome.complaints().size() == 1);
  CHECK_THAT(outcome.err, Contains("/proc/pool"));
}

TEST_CASE("bench model reports prefill and decode beside the bare products") {
  const Json document = json_of(supernode_on(
      2,
      "bench model --hidden 32 --layers 2 --experts 4 --topk 2 --moe-intermediate 16 --intermediate 32 --heads 2 "
      "--q-lora 16 --kv-lora 16 --nope 8 --rope 4 --v-dim 8 --vocab 64 --batch 3 --kv-tokens 5 -i 3 -x 1 "
      "--dtype int8 --format json"));
  CHECK(document["schema"] == "supernode.bench.model/1");
  const Json& phases = document["results"]["phases"];
  REQUIRE(phases.size() == 2);
  for (const Json& phase : phases) {
    CHECK(phase["tokens_per_s"].get<double>() > 0);
    CHECK(phase["gemm_ms"].get<double>() > 0);
    CHECK(phase["gemm_share"].get<double>() > 0);
    CHECK(phase["onednn_ms"].get<double>() > 0);
    CHECK(phase["operators_ms"].contains("attention"));
    double sum = 0;
    for (const auto& [name, share] : phase["implementations"].items()) sum += share.get<double>();
    CHECK(sum == Approx(1));
  }
  CHECK(phases[0]["tokens"] == 15);
  CHECK(phases[1]["tokens"] == 3);
}

TEST_CASE("the shipped model: accuracy of each type, greedy text, guesses that change nothing") {
  const std::string folder = test::shared_path("models/shakespeare-moe");
  if (folder.empty()) return;
  const Json reference = parse_json(read_file(folder + "/reference.json"), "reference.json");
  const double expected = reference["nats_per_token"].get<double>();
  const std::string int8_file = (scratch() / "int8.h5").string();
  json_of(supernode_on(
      1, "import --model configs/models/shakespeare-moe --dtype int8 --format json --output " + int8_file));
  struct Row {
    std::string options;
    double tolerance;
  };
  for (const Row& row : {Row{"--dtype f32", 0.001},
                         {"--dtype bf16", 0.003},
                         {"--dtype int8", 0.01},
                         {"--dtype int8 --model " + int8_file, 0.01}}) {
    INFO(row.options);
    const Json eval =
        json_of(supernode_on(2, "eval --window 256 --format json --text " + folder + "/val.txt " + row.options));
    CHECK(eval["results"]["nats_per_token"].get<double>() == Approx(expected).epsilon(row.tolerance));
  }
  for (const char* mtp : {"on", "off", "auto"}) {
    INFO(mtp);
    const Json text = json_of(supernode_on(
        2, "generate --max-tokens 200 --prompt-tokens 82,79,77,69,79,58,10 --format json --mtp " + std::string(mtp)));
    CHECK(text["results"]["tokens"].size() == 200);
    const std::string greedy = reference["greedy_200"].get<std::string>();
    CHECK(("ROMEO:\n" + text["results"]["text"].get<std::string>()).substr(0, greedy.size()) == greedy);
    CHECK((text["results"]["guessed"].get<int>() > 0) == (std::string(mtp) != "off"));
  }
}

TEST_CASE("logits that are no numbers end generate and eval with 1 and the position, on all ranks alike") {
  const std::string folder = (scratch() / "not-finite").string(), written = (scratch() / "logits.safetensors").string();
  fs::create_directories(folder);
  test::ChangedModel model;
  for (float& weight : model.tensors.at("model.norm.weight").values) weight = 3e38f;
  model.set("tokenizer", "bytes").write(folder);
  const std::string text = scratch_file("eval.txt", "a text of some length");
  const std::pair<std::string, std::string> rows[] = {
      {"generate --prompt-tokens 1,2,3 --max-tokens 4 --model " + folder,
       "position 3: 256 of 256 logits are not finite"},
      {"generate --tokens-file tests/moe/golden/tiny/expected.safetensors --logits-out " + written + " --model " +
           folder,
       "sequence 0: position 1: 256 of 256"},
      {"eval --window 8 --text " + text + " --model " + folder, "window 0: position 1: 256 of 256"}};
  for (const auto& [arguments, expected] : rows) {
    for (const int ranks : {1, 2}) {
      const Outcome outcome = supernode_on(ranks, arguments);
      INFO(arguments << "\n" << outcome.err);
      CHECK(outcome.code == 1);
      CHECK(outcome.complaints().size() == 1);
      CHECK_THAT(outcome.err, Contains(expected));
      CHECK(outcome.out.empty());
    }
  }
  CHECK_FALSE(fs::exists(written));
}

TEST_CASE("a result file on a full or read-only place is exit code 3") {
  const Outcome outcome = supernode_on(2, "topo --output /proc/results.h5");
  CHECK(outcome.code == 3);
  CHECK(outcome.complaints().size() == 1);
  CHECK_THAT(outcome.err, Contains("/proc/results.h5"));
  CHECK_FALSE(outcome.out.empty());  // what was measured is there

  const Outcome early = supernode_on(2, "bench pool --output /nowhere/results.h5");
  CHECK(early.code == 3);
  CHECK(early.complaints().size() == 1);
  CHECK_THAT(early.err, Contains("/nowhere/results.h5"));
  CHECK(early.out.empty());
}

TEST_CASE("a stdout that takes nothing is exit code 3") {
  for (const char* command : {"config", "--help", "inspect --model configs/models/shakespeare-moe --format json"}) {
    INFO(command);
    const Outcome outcome = supernode_on(0, command + std::string(" > /dev/full )"), "(");
    CHECK(outcome.code == 3);
    CHECK(outcome.complaints().size() == 1);
    CHECK_THAT(outcome.err, Contains("stdout"));
  }
}
