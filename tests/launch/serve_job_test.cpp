// supernode serve: several runs in one job, loads that are generated, and what is told on the way.
#include <map>

#include "tests/support/run_command.hpp"
#include "tests/support/serve_results.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;

namespace {

/// The sizes of DeepSeek-R1 on eight ranks, without arithmetic: exact, and the same in each run.
const std::string shape =
    "serve --config configs/quickstart.ini --machine cloudmatrix384 --compute shape "
    "--model configs/models/deepseek-r1 --modelled.experts 16 --serving.max-model-len 0 "
    "--serving.context-block-tokens 128 --format json ";

/// Twenty requests in bursts, of whose prompts a part is shared by two groups.
struct Drawn {
  std::string prompts = "lognormal:600:0.5", share = "0.5", rate = "10";
  std::string options() const {
    return "--workload generated --num-prompts 20 --output-lengths uniform:5:15 --prefix-groups 2 --burstiness 0.5 "
           "--prompt-lengths " +
           prompts + " --prefix-share " + share + " --request-rate " + rate + " ";
  }
};

const std::string generated = Drawn().options();

/// What a run says of the modelled machine; the rest is of the hosts.
Json modelled_part(Json results) {
  results.erase("wall_s");
  results.erase("modelled_over_wall");
  return results;
}

}  // namespace

TEST_CASE("a generated load is served, shares prefixes, and is the same again") {
  const std::string command = shape + generated + "--save-detailed --goodput ttft:100000,tpot:0.001 ";
  const Json first = document_of(supernode_on(8, command))["results"];
  CHECK(first["completed"] == 20);
  CHECK(first["pool"]["hit_tokens"].get<int>() > 0);
  for (const Json& request : first["requests"]) {
    check_request(request);
    CHECK(request["output_tokens"].get<int>() >= 5);
    CHECK(request["output_tokens"].get<int>() <= 15);
  }
  CHECK(first["goodput"] == 0.0);
  CHECK(first["goodput_by"]["ttft"] == first["request_throughput"]);
  CHECK(first["goodput_by"]["tpot"] == 0.0);
  CHECK(modelled_part(document_of(supernode_on(8, command))["results"]) == modelled_part(first));
  const Json alone = document_of(supernode_on(8, shape + Drawn{.share = "0"}.options()))["results"];
  CHECK(alone["pool"]["hit_tokens"] == 0);
  CHECK(alone["mean_ttft_ms"].get<double>() > first["mean_ttft_ms"].get<double>());
}

TEST_CASE("a repeat is the run of the next seed, and the results are means") {
  const std::string command = shape + generated + "--seed 5 ";
  const Json repeated = document_of(supernode_on(8, command + "--repeat 3"))["results"];
  REQUIRE(repeated["repeats"].size() == 3);
  double sum = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const Json& one = repeated["repeats"][static_cast<std::size_t>(repeat)];
    sum += one["mean_ttft_ms"].get<double>();
    // The pool was empty, and nothing else was left from the run before.
    const Json alone =
        document_of(supernode_on(8, shape + generated + "--seed " + std::to_string(5 + repeat)))["results"];
    CHECK(modelled_part(one) == modelled_part(alone));
  }
  CHECK(repeated["mean_ttft_ms"].get<double>() == Approx(sum / 3));
  CHECK(repeated["ci95"]["mean_ttft_ms"].get<double>() > 0);
  CHECK(repeated["completed"] == 20);
}

TEST_CASE("a job says what each part contributes, and what multiples of the load come to") {
  const std::string output = scratch_path("job.h5");
  const std::string command = shape + generated;
  const Json results = document_of(supernode_on(8, command +
                                                       "--ablate pool,mtp,microbatches,expert-skew "
                                                       "--load-factors 0.5,1,4 --goodput ttft:2000 --output " +
                                                       output))["results"];
  // The run as configured is what it is without the others.
  const Json base = document_of(supernode_on(8, command + "--goodput ttft:2000"))["results"];
  Json configured = modelled_part(results);
  configured.erase("ablation");
  configured.erase("peaks");
  CHECK(configured == modelled_part(base));

  std::map<std::string, Json> without;
  for (const Json& row : results["ablation"]) without[row["without"]] = row;
  REQUIRE(without.size() == 4);
  CHECK(without["pool"]["ratio"]["mean_ttft_ms"].get<double>() > 1);
  CHECK(without["mtp"]["ratio"]["mean_tpot_ms"].get<double>() > 1.2);
  // Another process with that option comes to the same.
  const Json no_mtp = document_of(supernode_on(8, command + "--modelled.mtp off"))["results"];
  CHECK(without["mtp"]["mean_tpot_ms"] == no_mtp["mean_tpot_ms"]);
  CHECK(without["mtp"]["difference"]["mean_tpot_ms"].get<double>() ==
        Approx(no_mtp["mean_tpot_ms"].get<double>() - base["mean_tpot_ms"].get<double>()));
  const Json no_pool = document_of(supernode_on(8, command + "--serving.context-cache off"))["results"];
  CHECK(without["pool"]["mean_ttft_ms"] == no_pool["mean_ttft_ms"]);
  CHECK(no_pool["pool"]["hit_tokens"] == 0);

  const Json& peaks = results["peaks"];
  REQUIRE(peaks.size() == 3);
  CHECK(peaks[0]["load_factor"] == 0.5);
  CHECK(peaks[1]["p99_ttft_ms"] == base["p99_ttft_ms"]);
  CHECK(peaks[2]["load_factor"] == 4);
  CHECK(peaks[2]["p99_ttft_ms"].get<double>() > peaks[0]["p99_ttft_ms"].get<double>());
  CHECK(peaks[0]["goodput"].get<double>() < peaks[1]["goodput"].get<double>());
  // Names of datasets stand in the file as they are.
  const std::string file = read_file(output);
  for (const char* name : {"expert-skew", "queued_max", "step_ms_max", "arrival_ms,queue_ms"}) {
    INFO(name);
    CHECK(file.find(name) != std::string::npos);
  }
}

TEST_CASE("runs of one job on the wall clock compute the same tokens") {
  const std::string command =
      "serve --config configs/quickstart.ini --max-requests 6 --time-scale 0 --max-concurrency 1 --save-detailed "
      "--save-tokens --format "
      "json ";
  const Json job = document_of(supernode_on(8, command + "--serving.mtp on --ablate pool,mtp --repeat 2"))["results"];
  CHECK(job["completed"] == 6);
  CHECK(job["pool"]["hit_tokens"].get<double>() > 0);
  REQUIRE(job["ablation"].size() == 2);
  CHECK(job["mtp"]["drafted"].get<double>() > 0);
  // Two tokens of each step at best.
  CHECK(job["ablation"][1]["without"] == "mtp");
  CHECK(job["ablation"][0]["ci95"]["mean_ttft_ms"].get<double>() >= 0);
  for (int repeat = 0; repeat < 2; ++repeat) {
    const Json alone = document_of(supernode_on(8, command + "--seed " + std::to_string(repeat)))["results"];
    const Json& mine = job["repeats"][static_cast<std::size_t>(repeat)]["requests"];
    REQUIRE(mine.size() == alone["requests"].size());
    for (std::size_t i = 0; i < mine.size(); ++i) {
      check_request(mine[i]);
      CHECK(mine[i]["output_token_ids"] == alone["requests"][i]["output_token_ids"]);
    }
  }
}

TEST_CASE("progress is told on stderr only, and only when it is wanted") {
  const std::string command = "serve --config configs/quickstart.ini --max-requests 30 --time-scale 0 --format json ";
  const Outcome quiet = supernode_on(8, command);
  static_cast<void>(document_of(quiet));
  CHECK_THAT(quiet.err, !Contains("served"));
  // stdout is one document, whatever goes to a terminal.
  const Outcome line = supernode_on(8, command + "--progress line --repeat 6");
  CHECK(document_of(line)["results"]["completed"] == 30);
  CHECK_THAT(line.out, !Contains("queued,"));
}

TEST_CASE("jobs that mean nothing are refused in one line") {
  const auto refused = [](const std::string& options, const std::string& why) {
    INFO(options);
    check_refused(supernode_on(8, shape + options), 2, why);
  };
  refused(generated + "--ablate poool", "--ablate: 'poool' is unknown; known: pool");
  refused(generated + "--ablate mtp,mtp", "--ablate: 'mtp' is there twice");
  refused(generated + "--ablate mtp --modelled.mtp off", "--ablate: 'mtp' is not on in this run");
  refused(generated + "--load-factors 0.5,0", "--load-factors: 0 is outside");
  refused(Drawn{.rate = "0"}.options() + "--load-factors 2", "--load-factors: all requests come at once");
  refused(Drawn{.prompts = "normal:5"}.options(), "normal:5");
  refused(Drawn{.prompts = "fixed:0"}.options(), "--prompt-lengths: 'fixed:0' is not fixed:N");
  refused(generated + "--repeat 2 --pool.directory " + scratch_path("pool"), "pool.directory");
}
