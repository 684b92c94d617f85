// supernode bench exchange, tune and pool.
#include <sstream>

#include "tests/support/run_command.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

TEST_CASE("bench exchange fills in every key, and its table begins with bytes") {
  const std::string matrix = scratch_path("matrix.h5");
  const std::string common = "bench exchange --hidden 64 --num-experts 8 --num-topk 2 --num-tokens 1:4 -i 6 ";
  const Json document = document_of(supernode_on(2, common +
                                                        "--op roundtrip --algorithm all,auto --machine cloudmatrix384 "
                                                        "--format json --matrix " +
                                                        matrix));
  CHECK(document["schema"] == "supernode.bench.exchange/1");
  CHECK(document["left_out"] == Json::array());
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
  const std::string rules = scratch_path("tuned.rules");
  for (const int ranks : {2, 3, 2}) {
    const Outcome tuned = supernode_on(ranks, "bench tune " + shape + "--num-tokens 1:8 --rules-file " + rules);
    INFO(tuned.err);
    CHECK(tuned.code == 0);
    CHECK_THAT(tuned.out, Contains("written to " + rules));
  }
  const std::string text = read_file(rules);
  CHECK_THAT(text, Contains("# tuned for hosts 1 ranks 2:") && Contains("# tuned for hosts 1 ranks 3:"));
  CHECK(text.find("ranks 2:") == text.rfind("ranks 2:"));
  const Json document = document_of(
      supernode_on(2, "bench exchange " + shape + "--num-tokens 4 --format json --exchange.rules " + rules));
  const Json& row = document["results"][0];
  CHECK(row["requested_algorithm"] == "auto");
  CHECK_THAT(row["rule"].get<std::string>(), Contains(rules + ":"));
}

TEST_CASE("algorithms that do not work here are left out with a word, and refused where they are named") {
  // This component of Open MPI has no windows in shared memory.
  const std::string no_shared_windows = "OMPI_MCA_osc=pt2pt";
  const std::string shape = "--hidden 64 --num-experts 8 --num-topk 2 -i 6 --num-tokens 2 ";
  const std::string reason = "needs memory that the ranks of a host share (MPI_Win_allocate_shared)";
  const std::string rules = scratch_path("without.rules");
  const Outcome tuned =
      supernode_on(2, "bench tune " + shape + "--format json --rules-file " + rules, no_shared_windows);
  const Json document = document_of(tuned);
  if (!document["env"]["mpi"]["library"].get<std::string>().starts_with("Open MPI")) {
    WARN("skipped: this MPI library has no component to choose");
    return;
  }
  const std::vector<std::string> lacking{"direct", "hierarchical", "pull"};
  REQUIRE(document["left_out"].size() == lacking.size());
  for (std::size_t i = 0; i < lacking.size(); ++i) {
    CHECK(document["left_out"][i]["algorithm"] == lacking[i]);
    CHECK_THAT(document["left_out"][i]["reason"].get<std::string>(), Contains(reason) && Contains("osc 'pt2pt'"));
    CHECK_THAT(tuned.err, Contains("bench tune leaves out exchange algorithm '" + lacking[i] + "': it " + reason));
  }
  CHECK(document["results"].size() == 3);
  CHECK_THAT(read_file(rules), Contains(", without direct and hierarchical and pull"));

  const Outcome all = supernode_on(2, "bench exchange --algorithm all " + shape, no_shared_windows);
  CHECK(all.code == 0);
  CHECK_THAT(all.out, Contains("# left out: pull; it " + reason));
  CHECK_THAT(all.err, Contains("bench exchange leaves out exchange algorithm 'pull': it " + reason));
  const Outcome named = supernode_on(2, "bench exchange --algorithm pairwise,pull " + shape, no_shared_windows);
  check_refused(named, 3, "exchange algorithm 'pull' " + reason);
  CHECK(named.out.empty());
}

TEST_CASE("bench pool explains itself, measures, and draws the hit rate of a trace") {
  const Outcome help = supernode_alone("bench pool --help");
  CHECK(help.code == 0);
  for (const char* option : {"--op", "--block-bytes", "--clients", "--trace", "--plot"})
    CHECK_THAT(help.out, Contains(option));
  const Json timed =
      document_of(supernode_on(2, "bench pool --op mixed -m 4K:8K -i 20 --pool.capacity 8M --format json"));
  REQUIRE(timed["results"].size() == 2);
  CHECK(timed["results"][1]["block_bytes"] == 8192);
  CHECK(timed["results"][1]["wrong"] == 0);
  CHECK(timed["results"][1].contains("huge_page_bytes"));

  const std::string replay = "bench pool --trace configs/traces/quickstart.jsonl --curve-blocks 100,100000 --plot ";
  const std::string picture = scratch_path("curve.svg"), numbers = scratch_path("curve.dat");
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
