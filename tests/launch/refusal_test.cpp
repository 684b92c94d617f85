// Bad input gets one clear line, exit code 2, and no result. A table for each kind of input.
#include "tests/support/run_command.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

struct Row {
  int ranks;  ///< 0: without a launcher
  std::string arguments;
  std::string expected;  ///< part of the line
};

void check_rows(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    INFO(row.ranks << " ranks: " << row.arguments.substr(0, 200));
    const Outcome outcome = row.ranks == 0 ? supernode_alone(row.arguments) : supernode_on(row.ranks, row.arguments);
    check_refused(outcome, 2, row.expected);
    CHECK(outcome.out.empty());
  }
}

const std::string serve = "serve --config configs/quickstart.ini --trace ";
const std::string shipped_model = source_path("configs/models/shakespeare-moe");

enum class Weights { none, shipped };

/// A model folder with the given config.json. @returns its path
std::string model_folder(const std::string& name, const std::string& config, Weights weights) {
  scratch_file(name + "/config.json", config);
  const fs::path link = scratch() / name / "model.safetensors";
  if (weights == Weights::shipped && !fs::exists(link)) fs::create_symlink(shipped_model + "/model.safetensors", link);
  return scratch_path(name);
}

std::string shipped_config() { return read_file(shipped_model + "/config.json"); }

/// The shipped model, cut short after a megabyte.
std::string model_cut_short() {
  scratch_file("half/model.safetensors", read_file(shipped_model + "/model.safetensors").substr(0, 1'000'000));
  return model_folder("half", shipped_config(), Weights::none);
}

}  // namespace

TEST_CASE("traces that are none") {
  const std::string good = read_file(source_path("configs/traces/quickstart.jsonl"));
  check_rows({
      {8, serve + "/nowhere.jsonl", "/nowhere.jsonl"},
      {8, serve + scratch_file("empty.jsonl", ""), "the trace is empty"},
      {8, serve + scratch_file("cut.jsonl", good.substr(0, good.size() - 40)), "is the file truncated?"},
      {8, serve + scratch_file("garbage.jsonl", std::string("\x7f\x45\x4c\x46\x00\x01", 6)), "garbage.jsonl:1"},
      {8, serve + "configs", "configs"},
      {8, "serve --serving.max-model-len 100", "--trace is missing"},
      {8, serve + "quickstart --inject owner_fire", "known: owner_stall, owner_loss"},
      {8, serve + "quickstart --inject owner_loss:7", "there is no cache rank 7"},
  });
}

TEST_CASE("sizes that do not fit") {
  check_rows({
      {3, "serve --config configs/quickstart.ini", "needs 8 ranks"},
      {8, "serve --config configs/quickstart.ini --length-scale 1", "exceed the limit"},
      {2, "generate --prompt " + std::string(5000, 'x'), "4096"},
      {1, "generate --prompt-tokens 1,2,999", "999"},
  });
}

TEST_CASE("settings of the pool") {
  check_rows({
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
  });
}

TEST_CASE("configuration files") {
  check_rows({
      {2, "topo --config /nowhere.ini", "/nowhere.ini"},
      {2, "topo --config " + scratch_file("odd.ini", "[serving]\nodd = 1\n"), "odd.ini:2: [serving] odd: unknown key"},
      {2, "topo --config " + scratch_file("cut.ini", "[serving]\ndecode_dies ="), "cut.ini:2"},
      {2, "topo --config " + scratch_file("garbage.ini", "\x01\x02\x03"), "garbage.ini:1"},
      {1, "topo --config configs", "directory"},
  });
}

TEST_CASE("commands and options") {
  check_rows({
      {2, "generate --unknown 1", "unknown option '--unknown'"},
      {2, "generate --max-tokens many", "--max-tokens"},
      {2, "generate --prompt some words", "unexpected argument 'words'"},
      {0, "generat", "unknown command 'generat'"},
      {0, "bench nothing", "unknown command 'bench nothing'"},
      {0, "config --serving.decode-dies 0", "--serving.decode-dies"},
      {2, "topo --machine nowhere", "nowhere"},
  });
}

TEST_CASE("settings of the exchange") {
  check_rows({
      {2, "bench exchange --algorithm fastest", "fastest"},
      {2, "bench exchange --num-tokens 8:4", "--num-tokens '8:4': a range is MIN:MAX"},
      {2, "bench exchange --num-tokens many", "--num-tokens 'many'"},
      {2, "bench exchange --num-tokens 1:2:3", "--num-tokens '1:2:3': a number from 0 to 16777216"},
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
  });
}

TEST_CASE("the modelled machine") {
  check_rows({
      {0, "validate --table 99", "--table '99' is unknown; known: 1 2 7"},
      {0, "validate --explain ems", "did you mean one of 'cold_start_s ems'"},
      {0, "validate --explain nonsense", "`supernode validate` lists them"},
      {0, "validate --machine nowhere", "nowhere"},
      {0, "plan --set fabric.planes", "write section.key=value"},
      {0, "plan --set fabric.plains=3", "fabric.plains"},
      {0, "plan --npus 100000", "has 384"},
      {0, "plan --expert-load zipf:x", "'x' is not a number"},
      {0, "plan --model " + scratch_file("odd/config.json", "{}"), "odd/config.json"},
  });
}

TEST_CASE("checkpoints and texts") {
  const std::string half_weights = model_cut_short();
  const std::string no_shard = model_folder("no-shard", shipped_config(), Weights::none);
  scratch_file("no-shard/model.safetensors.index.json",
               R"({"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}})");
  check_rows({
      {2, "generate --prompt x --model /nowhere", "/nowhere"},
      {2, "generate --prompt x --model " + model_folder("empty-config", "", Weights::shipped), "config.json"},
      {2,
       "generate --prompt x --model " + model_folder("cut-config", shipped_config().substr(0, 100), Weights::shipped),
       "config.json"},
      {2, "generate --prompt x --model " + model_folder("odd-config", "[1, 2]", Weights::shipped), "config.json"},
      {2, "generate --prompt x --model " + model_folder("no-weights", shipped_config(), Weights::none),
       "model.safetensors"},
      {2, "generate --prompt x --model " + half_weights, "model.safetensors"},
      {2, "generate --prompt x --model " + no_shard, "model-00001-of-00002.safetensors"},
      {8, serve + "quickstart --model " + half_weights, "model.safetensors"},
      {2, "eval --text /nowhere.txt", "/nowhere.txt"},
      {1, "import --model " + half_weights + " --output " + scratch_path("half.h5"), "model.safetensors"},
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
  });
}
