// supernode serve.
#include <map>
#include <sstream>

#include "tests/support/run_command.hpp"
#include "tests/support/serve_results.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

TEST_CASE("serve completes a small trace, and its figures add up") {
  const std::string output = scratch_path("serve.h5");
  const Json document =
      document_of(supernode_on(8,
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
  CHECK(pool["stored_blocks"].get<int>() > 0);
  CHECK(pool["dropped_blocks"] == 0);
  CHECK(pool["dropped"].empty());
  CHECK(fs::file_size(output) > 1000);
  const Json* hit = nullptr;
  for (const Json& request : results["requests"]) {
    check_request(request);
    if (request["hit_tokens"].get<int>() > 0 && request["output_tokens"].get<int>() > 4) hit = &request;
  }
  // What was served with a prefix from the pool is what the model says to the whole prompt at once.
  REQUIRE(hit);
  std::string ids;
  for (const Json& token : (*hit)["prompt_token_ids"])
    ids += (ids.empty() ? "" : ",") + std::to_string(token.get<int>());
  const Json generated =
      document_of(supernode_on(2, "generate --format json --prompt-tokens " + ids + " --max-tokens " +
                                      std::to_string((*hit)["output_tokens"].get<int>())));
  CHECK(generated["results"]["tokens"] == (*hit)["output_token_ids"]);
  CHECK_FALSE(fs::exists(output + ".partial"));
  // Results are never overwritten.
  const Outcome again = supernode_on(1, "topo --output " + output);
  CHECK(again.code == 2);
  CHECK_THAT(again.err, Contains("never overwritten"));
}

TEST_CASE("requests that are cancelled are counted, and are no failure") {
  const Json results = document_of(supernode_on(
      8,
      "serve --config configs/quickstart.ini --max-requests 16 --time-scale 0 --save-detailed --format json "
      "--cancel-share 0.5 --cancel-within 0.2 --stop-tokens 10,46 --serving.chunk-tokens 64 --serving.max-queue 12"))
      ["results"];
  const auto count = [&](const char* key) { return results[key].get<int>(); };
  CHECK(count("completed") + count("cancelled") + count("refused") == 16);
  CHECK(count("cancelled") > 0);
  CHECK(count("failed") == 0);
  std::map<std::string, int> reasons;
  for (const Json& request : results["requests"]) {
    ++reasons[request["finish_reason"].get<std::string>()];
    if (request["finish_reason"] == "length" || request["finish_reason"] == "stop") check_request(request);
  }
  CHECK(reasons["length"] + reasons["stop"] == count("completed"));
  CHECK(reasons["cancelled"] == count("cancelled"));
}

TEST_CASE("a cache rank that is lost costs hits with that reason; every request completes") {
  // The trace's own times, nearly two seconds: requests still come when the rank has surely fallen silent.
  const Json results = document_of(supernode_on(8,
                                                "serve --config configs/quickstart.ini --max-requests 8 "
                                                "--pool.deadline 0.3 --inject owner_loss+4 --format json"))["results"];
  CHECK(results["completed"] == 8);
  CHECK(results["failed"] == 0);
  const Json& pool = results["pool"];
  CHECK(pool["miss_reasons"]["owner_down"].get<int>() > 0);
  CHECK(pool["hit_tokens"].get<int>() + pool["computed_tokens"].get<int>() == results["total_input_tokens"].get<int>());
}

TEST_CASE("a slow die is named, and costs no request") {
  const Outcome outcome = supernode_on(8,
                                       "serve --config configs/quickstart.ini --max-requests 16 --time-scale 0 "
                                       "--length-scale 0.02 --inject slow_rank=5:20 --format json");
  const Json results = document_of(outcome)["results"];
  CHECK(results["completed"] == 16);
  CHECK(results["dies"].size() == 6);
  CHECK(results["slowest_die"]["rank"] == 5);
  CHECK(results["slowest_die"]["role"] == "decode");
  CHECK(results["slowest_die"]["times_median"].get<double>() > 2);
}

TEST_CASE("an instance whose die stalls is lost with its requests; the others serve the rest") {
  const std::string output = scratch_path("lost.h5");
  const Outcome outcome =
      supernode_on(8,
                   "serve --config configs/quickstart.ini --serving.decode-instances 2 --serving.decode-dies 2 "
                   "--max-requests 24 --length-scale 0.02 --time-scale 0.3 --serving.max-prefill-tokens 512 "
                   "--save-detailed --deadline 3 "
                   "--inject stall_rank=4:60@0.5 --format json --output " +
                       output);
  INFO(outcome.err);
  CHECK(outcome.code == 1);
  CHECK(outcome.complaints().size() == 1);
  CHECK_THAT(outcome.err, Contains("decode instance 0 was lost, others went on") && Contains("rank 4"));
  const Json results = parse_json(outcome.out, "results")["results"];
  REQUIRE(results["lost_instances"].size() == 1);
  CHECK(results["lost_instances"][0]["role"] == "decode");
  CHECK(results["lost_instances"][0]["instance"] == 0);
  CHECK(results["completed"].get<int>() + results["failed"].get<int>() == 24);
  CHECK(results["completed"].get<int>() > 0);
  CHECK(results["failed"].get<int>() > 0);
  for (const Json& failed : results["failures"]) CHECK(failed["reason"] == results["lost_instances"][0]["reason"]);
  for (const Json& request : results["requests"]) check_request(request);
  CHECK(results["room_at_end"]["free_kv_tokens"] == results["room_at_end"]["decode_kv_tokens"]);
  CHECK(fs::exists(output));
  CHECK_FALSE(fs::exists(output + ".partial"));
}

TEST_CASE("a die that stalls for longer than the deadline ends the run in one line; what was completed is on disk") {
  const std::string output = scratch_path("stalled.h5");
  const Outcome outcome = supernode_on(8,
                                       "serve --config configs/quickstart.ini --max-requests 24 --max-concurrency 2 "
                                       "--deadline 4 --inject stall_rank=4:60@2 --output " +
                                           output);
  INFO(outcome.err);
  CHECK(outcome.code == 3);
  CHECK(outcome.complaints().size() == 1);
  CHECK_THAT(outcome.err, Contains("rank 4"));
  CHECK_FALSE(fs::exists(output));
  std::istringstream rows(read_file(output + ".partial"));
  int completed = 0, failed = 0;
  for (std::string line; std::getline(rows, line);) {
    const Json row = parse_json(line, "row");
    if (row.contains("e2el_ms")) {
      check_request(row);
      ++completed;
    } else {
      CHECK_THAT(row["reason"].get<std::string>(), Contains("rank"));
      ++failed;
    }
  }
  CHECK(completed > 0);
  CHECK(failed > 0);
}

TEST_CASE("a rank that is killed ends the job; what was completed is on disk, and no process is left") {
  const std::string folder = scratch_path("killed"), output = folder + "/out.h5";
  fs::create_directories(folder + "/pids");
  const std::string with_pid = scratch_file("killed/with_pid.sh", "echo $$ > " + folder +
                                                                      "/pids/${OMPI_COMM_WORLD_RANK:-$PMI_RANK}\n"
                                                                      "exec \"$@\"\n");
  // Requests come for a minute, and a decode die is killed when the first has been completed. What a killed job cannot
  // remove goes with the folder. A zombie, which some containers keep, is no process that is left.
  const std::string script =
      scratch_file("killed/job.sh", "export OMPI_MCA_orte_tmpdir_base=" + folder +
                                        " OMPI_MCA_btl_vader_backing_directory=" + folder +
                                        "\n"
                                        "timeout 120 " SUPERNODE_MPIRUN " 8 " SUPERNODE_MPIRUN_FLAGS " sh " +
                                        with_pid +
                                        " " SUPERNODE_BINARY
                                        " serve --config configs/quickstart.ini --max-requests 40 --time-scale 10 "
                                        "--output " +
                                        output +
                                        " &\n"
                                        "job=$!\n"
                                        "turns=0\n"
                                        "while [ ! -s " +
                                        output +
                                        ".partial ] && [ $turns -lt 1000 ]; do sleep 0.1; turns=$((turns + 1)); done\n"
                                        "kill -9 $(cat " +
                                        folder +
                                        "/pids/4)\n"
                                        "wait $job\n"
                                        "code=$?\n"
                                        "for pid in $(cat " +
                                        folder +
                                        "/pids/*); do\n"
                                        "  turns=0\n"
                                        "  while grep -qs '^State:.*[RSDT] (' /proc/$pid/status; do\n"
                                        "    [ $turns -lt 100 ] || { echo $pid is left; break; }\n"
                                        "    sleep 0.1; turns=$((turns + 1))\n"
                                        "  done\n"
                                        "done\n"
                                        "exit $code\n");
  const Outcome outcome = shell("sh " + script);
  INFO(outcome.err);
  CHECK(outcome.code != 0);
  CHECK(outcome.code != 124);  // not the end of the patience, the end of the job
  CHECK(outcome.out == "");
  CHECK(outcome.complaints().size() <= 1);  // Open MPI lets rank 0 speak; other launchers may not
  CHECK_FALSE(fs::exists(output));
  std::istringstream rows(read_file(output + ".partial"));
  int completed = 0;
  for (std::string line; std::getline(rows, line); ++completed) check_request(parse_json(line, "row"));
  CHECK(completed > 0);
}
