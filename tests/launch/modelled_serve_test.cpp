// supernode serve on a modelled machine.
#include <fstream>

#include "tests/support/run_command.hpp"
#include "tests/support/serve_results.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;

namespace {

/// Prompts that share prefixes, ten blocks at the most, twelve a second.
std::string small_trace() {
  const std::string path = scratch_path("modelled.jsonl");
  std::ofstream file(path);
  for (int i = 0; i < 40; ++i) {
    const int family = i % 5, blocks = 2 + i % 9;
    file << R"({"timestamp": )" << i * 83 << R"(, "input_length": )" << blocks * 512 - 37 * (i % 3)
         << R"(, "output_length": )" << 3 + i % 7 << R"(, "hash_ids": [)";
    for (int block = 0; block < blocks; ++block)
      file << (block ? ", " : "") << (block < 4 ? family * 100 + block : 1000 + 20 * i + block);
    file << "]}\n";
  }
  return path;
}

/// What a run says of the modelled machine; the rest is of the hosts.
std::string modelled_part(Json results) {
  results.erase("wall_s");
  results.erase("modelled_over_wall");
  if (results.contains("payload"))
    for (Json& way : results["payload"]) way.erase("wall_s");
  if (results.contains("rebalancing"))
    for (Json& role : results["rebalancing"]) role.erase("wall_s");
  return results.dump();
}

const std::string shape_run =
    "serve --config configs/deployments/paper-small.ini --save-detailed --save-tokens --format json ";

void check_requests(const Json& results) {
  for (const Json& request : results["requests"]) check_request(request);
}

}  // namespace

TEST_CASE("runs on the modelled clock are equal to the last byte, whatever the hosts do") {
  // A pool of 12 blocks of 128 tokens: some are evicted.
  const std::string command = shape_run + "--modelled.pool-gb 0.11 --trace " + small_trace();
  const Json first = document_of(supernode_on(14, command))["results"];
  CHECK(first["clock"] == "modelled");
  CHECK(first["completed"] == 40);
  CHECK(first["pool"]["hit_tokens"].get<int>() > 0);
  CHECK(first["pool"]["miss_reasons"].contains("evicted"));
  CHECK(first["wall_s"].get<double>() > 0);
  check_requests(first);
  CHECK(modelled_part(document_of(supernode_on(14, command))["results"]) == modelled_part(first));
  // All ranks on one processor.
  CHECK(modelled_part(document_of(supernode_on(14, command, "taskset -c 0 "))["results"]) == modelled_part(first));
}

TEST_CASE("a rank that is stopped again and again changes nothing on the modelled clock") {
  const std::string trace = std::string(SUPERNODE_SHARED_DIR) + "/data/traces/mooncake_conversation.jsonl";
  if (!std::filesystem::exists(trace)) {
    WARN("skipped: needs " << trace);
    return;
  }
  // Open MPI's variable for the rank; one prefill die of eight ranks.
  const std::string slowed = "sh " + scratch_file("slowed.sh", R"(
if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then
  (while kill -STOP $$ 2>/dev/null; do sleep 0.04; kill -CONT $$; sleep 0.02; done) &
fi
exec "$@"
)");
  // 300 requests, and a pool that holds 40 blocks.
  const std::string command =
      "serve --machine cloudmatrix384 --compute shape --model configs/models/deepseek-r1 --modelled.experts 32 "
      "--max-requests 300 --length-scale 0.01 --time-scale 0.02 --serving.context-block-tokens 32 "
      "--modelled.pool-gb 0.09 --save-detailed --format json --trace " +
      trace;
  const Json first = document_of(supernode_on(8, command))["results"];
  CHECK(first["completed"].get<int>() + first.value("without_output", 0) == 300);
  CHECK(first["pool"]["hit_tokens"].get<int>() > 0);
  CHECK(first["pool"]["miss_reasons"].contains("evicted"));
  check_requests(first);
  CHECK(modelled_part(document_of(supernode_on(8, command, "", slowed))["results"]) == modelled_part(first));
}

TEST_CASE("sums over instances do not depend on who stops first") {
  const std::string command = shape_run +
                              "--serving.prefill-instances 4 --serving.prefill-dies 1 --modelled.prefill-redundant 0 "
                              "--max-requests 16 --trace " +
                              small_trace();
  const Json first = document_of(supernode_on(14, command))["results"];
  CHECK(first["step_terms_s"]["prefill: steps"].get<int>() >= 4);
  CHECK(modelled_part(document_of(supernode_on(14, command))["results"]) == modelled_part(first));
}

TEST_CASE("prompts in pieces draw the same tokens, and requests that are cancelled are counted, in every run alike") {
  const std::string command = shape_run + "--trace " + small_trace();
  const Json whole = document_of(supernode_on(14, command))["results"];
  const std::string in_pieces = command + " --serving.chunk-tokens 700 --serving.max-prefill-tokens 2000 ";
  const Json pieces = document_of(supernode_on(14, in_pieces))["results"];
  CHECK(pieces["completed"] == 40);
  CHECK(pieces["step_terms_s"]["prefill: steps"] > whole["step_terms_s"]["prefill: steps"]);
  check_requests(pieces);
  REQUIRE(pieces["requests"].size() == whole["requests"].size());
  for (std::size_t i = 0; i < whole["requests"].size(); ++i) {
    CHECK(pieces["requests"][i]["output_token_ids"] == whole["requests"][i]["output_token_ids"]);
    CHECK(whole["requests"][i]["finish_reason"] == "length");
  }

  const std::string some_leave = in_pieces + "--cancel-share 0.5 --cancel-within 0.4 --serving.max-queue 6 ";
  const Json first = document_of(supernode_on(14, some_leave))["results"];  // and the exit code is 0
  CHECK(first["cancelled"].get<int>() >= 5);
  CHECK(first["completed"].get<int>() + first["cancelled"].get<int>() + first["refused"].get<int>() == 40);
  for (const Json& request : first["requests"]) {
    if (request["finish_reason"] == "length") check_request(request);
    if (request["finish_reason"] == "refused") CHECK(request["ttft_ms"].is_null());
  }
  CHECK(modelled_part(document_of(supernode_on(14, some_leave, "taskset -c 0 "))["results"]) == modelled_part(first));
}

TEST_CASE("contexts of 128k tokens pass at the width of the published model") {
  const std::string path = scratch_file("long.csv",
                                        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
                                        "2026-01-01 00:00:00.000,131072,3\n"
                                        "2026-01-01 00:00:00.001,200,3\n");
  const Json results = document_of(supernode_on(14, shape_run +
                                                        "--serving.prefill-instances 1 --serving.prefill-dies 4 "
                                                        "--modelled.prefill-redundant 2 --serving.chunk-tokens 4096 "
                                                        "--trace " +
                                                        path))["results"];
  CHECK(results["completed"] == 2);
  check_requests(results);
  const Json &long_one = results["requests"][0], &short_one = results["requests"][1];
  CHECK(long_one["computed_tokens"] == 131072);
  CHECK(results["step_terms_s"]["prefill: steps"] == 32);
  // The short one does not wait for the long one. Its KV of 9.2 GB would take 368 ms over RDMA, and is mostly handed over
  // when its last piece is done.
  CHECK(short_one["ttft_ms"].get<double>() < 0.05 * long_one["ttft_ms"].get<double>());
  CHECK(long_one["parts_ms"]["handover"].get<double>() < 40);
}

TEST_CASE("a slow host processor delays loads, and no part of a request becomes negative") {
  std::string machine = read_file(SUPERNODE_SOURCE_DIR "/configs/machines/cloudmatrix384.ini");
  const std::size_t key = machine.find("\ncpu_link_gbps");
  REQUIRE(key != std::string::npos);
  machine.replace(key, machine.find('\n', key + 1) - key, "\ncpu_link_gbps = 0.05");
  const std::string path = scratch_file("slow.ini", machine);
  const Json results =
      document_of(supernode_on(14, shape_run + "--machine " + path + " --trace " + small_trace()))["results"];
  CHECK(results["completed"] == 40);
  CHECK(results["pool"]["hit_tokens"].get<int>() > 0);
  check_requests(results);
}

TEST_CASE("the model's tokens are the same on the modelled clock as on the wall clock") {
  const std::string command =
      "serve --config configs/quickstart.ini --max-requests 10 --save-detailed --save-tokens --format json ";
  const Json wall = document_of(supernode_on(8, command + "--time-scale 0"))["results"];
  const Json modelled = document_of(supernode_on(8, command + "--machine cloudmatrix384"))["results"];
  const Json again = document_of(supernode_on(8, command + "--machine cloudmatrix384"))["results"];
  CHECK(modelled["clock"] == "modelled");
  CHECK(modelled_part(modelled) == modelled_part(again));
  CHECK(modelled["pool"]["hit_tokens"].get<int>() > 0);
  // KV of its four layers in f32, 1280 B a token.
  CHECK(modelled["payload"]["pool_load"]["bytes"] == 1280 * modelled["pool"]["hit_tokens"].get<std::uint64_t>());
  CHECK(modelled["payload"]["exchange"]["bytes"].get<std::uint64_t>() > 0);
  // With a pool that holds a part of it, what the model grants is there all the same.
  const Json tight = document_of(supernode_on(
      8,
      "serve --config configs/quickstart.ini --max-requests 24 --machine cloudmatrix384 --pool.capacity 2M "
      "--serving.max-prefill-tokens 300 --save-detailed --format json"))["results"];
  CHECK(tight["pool"]["miss_reasons"].contains("evicted"));
  check_requests(tight);
  REQUIRE(wall["requests"].size() == modelled["requests"].size());
  for (std::size_t i = 0; i < wall["requests"].size(); ++i)
    CHECK(wall["requests"][i]["output_token_ids"] == modelled["requests"][i]["output_token_ids"]);
}

TEST_CASE("carried payload has the bytes of rows, KV and blocks, and changes nothing else") {
  // The model's four layers have 640 B of KV a token, three of them experts; its module one more.
  const std::string command =
      "serve --config configs/quickstart.ini --machine cloudmatrix384 --compute shape --modelled.acceptance 0 "
      "--max-requests 12 --save-detailed --save-tokens --format json ";
  Json elided = document_of(supernode_on(8, command + "--payload elided"))["results"];
  Json carried = document_of(supernode_on(8, command + "--payload carried"))["results"];
  CHECK_FALSE(elided.contains("payload"));
  check_requests(carried);

  std::uint64_t rows = 0, handed_over = 0, input = 0;
  for (const Json& request : carried["requests"]) {
    // Four experts for each token in each layer. An iteration has two tokens, and none of the guesses is kept.
    const auto output = request["output_tokens"].get<std::uint64_t>();
    rows += 4 * 3 * request["computed_tokens"].get<std::uint64_t>() + 4 * 4 * 2 * (output - 1);
    input += request["input_tokens"].get<std::uint64_t>();
    if (output > 1) handed_over += request["input_tokens"].get<std::uint64_t>();
  }
  const Json payload = carried["payload"];
  CHECK(payload["exchange"]["bytes"] == rows * (512 + 256));
  CHECK(payload["handover"]["bytes"] == handed_over * 640);
  CHECK(carried["pool"]["hit_tokens"].get<int>() > 0);
  CHECK(payload["pool_load"]["bytes"] == 640 * carried["pool"]["hit_tokens"].get<std::uint64_t>());
  CHECK(payload["pool_store"]["bytes"] == 640 * 16 * carried["pool"]["stored_blocks"].get<std::uint64_t>());
  for (const Json& way : payload) {
    CHECK(way["wall_s"].get<double>() > 0);
    CHECK(way["modelled_s"].get<double>() > 0);
  }
  carried.erase("payload");
  CHECK(modelled_part(carried) == modelled_part(elided));
}

TEST_CASE("a real pool follows the directory of the modelled one, also when it is tight") {
  const std::string command =
      "serve --config configs/quickstart.ini --machine cloudmatrix384 --compute shape --payload carried "
      "--serving.cache-ranks 2 --pool.capacity 1M --serving.max-prefill-tokens 300 --max-requests 40 --save-detailed "
      "--format json ";
  const Json first = document_of(supernode_on(9, command))["results"];
  CHECK(first["pool"]["miss_reasons"].contains("evicted"));
  CHECK(first["pool"]["hit_tokens"].get<int>() > 0);
  check_requests(first);
  CHECK(modelled_part(document_of(supernode_on(9, command, "taskset -c 0 "))["results"]) == modelled_part(first));
}

TEST_CASE("a steady load moves the rows of its batch and no context") {
  const Json results =
      document_of(supernode_on(8,
                               "serve --config configs/quickstart.ini --machine cloudmatrix384 --compute shape "
                               "--payload carried --workload steady --batch-per-npu 8 --prompt-tokens 1000 "
                               "--output-tokens 64 --steps 8 --format json"))["results"];
  CHECK(results["payload"]["exchange"]["bytes"].get<std::uint64_t>() % (2 * 4 * 4 * (512 + 256)) == 0);
  CHECK(results["payload"]["exchange"]["bytes"].get<std::uint64_t>() > 0);
  CHECK(results["payload"]["handover"]["bytes"] == 0);
  CHECK(results["payload"]["pool_load"]["bytes"] == 0);
}

TEST_CASE("microbatches and guesses of a model that computes have a price on the modelled clock") {
  const std::string command =
      "serve --config configs/quickstart.ini --max-requests 10 --machine cloudmatrix384 --save-detailed --save-tokens "
      "--format json ";
  const Json plain = document_of(supernode_on(8, command))["results"];
  // Experts change dies, too, which changes no token.
  const std::string both = command +
                           "--serving.microbatches 2 --serving.mtp on --serving.rebalance-interval 2 "
                           "--serving.rebalance-threshold 1 ";
  const Json guessed = document_of(supernode_on(8, both))["results"];
  CHECK(modelled_part(document_of(supernode_on(8, both))["results"]) == modelled_part(guessed));
  check_requests(guessed);
  CHECK_FALSE(plain.contains("mtp"));
  CHECK(guessed["mtp"]["drafted"].get<int>() > 0);
  CHECK(guessed["mtp"]["acceptance"].get<double>() > 0.3);
  CHECK(guessed["step_terms_s"].contains("decode: mtp join"));
  CHECK(guessed["rebalancing"]["decode"]["experts_moved"].get<int>() > 0);
  CHECK(guessed["step_terms_s"]["decode: steps"].get<int>() < plain["step_terms_s"]["decode: steps"].get<int>());
  REQUIRE(guessed["requests"].size() == plain["requests"].size());
  for (std::size_t i = 0; i < plain["requests"].size(); ++i)
    CHECK(guessed["requests"][i]["output_token_ids"] == plain["requests"][i]["output_token_ids"]);
}

TEST_CASE("a closed loop finds the batch that keeps an objective, and more tokens as it is loosened") {
  double last_batch = 0, last_rate = 0;
  for (const int objective : {18, 30}) {
    const Json results = document_of(
        supernode_on(14, shape_run +
                             "--workload steady --batch-per-npu 64 --prompt-tokens 4096 --output-tokens 256 "
                             "--steps 20 --serving.tpot-objective-ms " +
                             std::to_string(objective)))["results"];
    INFO(objective);
    const Json& kept = results["tpot_objective"];
    CHECK(kept["kept"] == true);
    CHECK(kept["p99_step_ms_per_token"].get<double>() > 0.85 * objective);
    const Json& steady = results["steady"];
    CHECK(steady["batch_per_npu"].get<double>() == Approx(2 * kept["batch"].get<double>()).epsilon(0.1));
    CHECK(steady["iteration_ms"].get<double>() == Approx(steady["formula_iteration_ms"].get<double>()).epsilon(0.1));
    CHECK(steady["tpot_ms"].get<double>() < objective);
    CHECK(steady["batch_per_npu"].get<double>() > 1.5 * last_batch);
    CHECK(steady["output_tokens_per_s_per_npu"].get<double>() > last_rate);
    last_batch = steady["batch_per_npu"];
    last_rate = steady["output_tokens_per_s_per_npu"];
  }
}

TEST_CASE("a modelled die is slow when it is told to be, and named") {
  const std::string command = shape_run +
                              "--workload steady --batch-per-npu 16 --prompt-tokens 1000 --output-tokens "
                              "64 --steps 16 --inject slow_rank=7:3 ";
  const Json slow = document_of(supernode_on(14, command))["results"];
  CHECK(slow["slowest_die"]["rank"] == 7);
  CHECK(slow["slowest_die"]["times_median"].get<double>() == Approx(3).epsilon(0.3));
  CHECK(slow["steady"]["iteration_ms"].get<double>() > 1.5 * slow["steady"]["formula_iteration_ms"].get<double>());
  CHECK(modelled_part(document_of(supernode_on(14, command))["results"]) == modelled_part(slow));
}

TEST_CASE("a steady load runs at the pace that the model of its deployment says") {
  const Json results =
      document_of(supernode_on(14, shape_run + "--workload steady --batch-per-npu 96 --prompt-tokens 4032 "
                                               "--output-tokens 128 --steps 24"))["results"];
  const Json& steady = results["steady"];
  CHECK(steady["batch_per_npu"] == 96);
  // Two tokens for each that is accepted, at 0.7.
  CHECK(steady["iteration_ms"].get<double>() / steady["tpot_ms"].get<double>() == Approx(1.7).epsilon(0.02));
  CHECK(steady["output_tokens_per_s_per_npu"].get<double>() ==
        Approx(96e3 / steady["tpot_ms"].get<double>()).epsilon(0.01));
}

TEST_CASE("rebalancing makes skewed experts even while they serve, which raises throughput") {
  // Experts were placed as if used alike, and are not.
  const std::string output = scratch_path("balance.h5");
  const Json results = document_of(supernode_on(
      14, shape_run +
              "--workload steady --batch-per-npu 96 --prompt-tokens 4032 --output-tokens 128 --steps 64 "
              "--modelled.expert-load zipf:0.8 --modelled.placed-for even --modelled.drift 0 "
              "--modelled.request-spread 0.5 --serving.rebalance-interval 8 --serving.rebalance-threshold 1.1 "
              "--serving.rebalance-bytes-per-step 64M --ablate rebalancing --output " +
              output))["results"];
  const Json& decode = results["rebalancing"]["decode"];
  CHECK(decode["rebalancings"].get<int>() > 0);
  CHECK(decode["bytes_moved"].get<double>() >= decode["experts_moved"].get<double>() * 3 * 7168 * 2048);
  const auto figure = [&](const char* phase, const char* key) { return decode[phase][key].get<double>(); };
  CHECK(figure("after", "max_over_mean") - 1 < 0.75 * (figure("before", "max_over_mean") - 1));
  CHECK(figure("after", "tokens_per_s") > 1.02 * figure("before", "tokens_per_s"));
  REQUIRE(results["ablation"].size() == 1);
  CHECK(results["ablation"][0]["without"] == "rebalancing");
  CHECK(results["ablation"][0]["ratio"]["steady_output_tokens_per_s_per_npu"].get<double>() < 1);
  CHECK(read_file(output).find("expert_balance") != std::string::npos);
}

TEST_CASE("what does not fit a modelled machine is refused in one line") {
  const auto refused = [](int ranks, const std::string& options, const std::string& why) {
    const Outcome outcome = supernode_on(ranks, "serve --config configs/deployments/paper-small.ini " + options);
    INFO(options);
    CHECK(outcome.code == 2);
    CHECK_THAT(outcome.err, Contains(why));
  };
  refused(1, "--machine nowhere", "nowhere");
  refused(1, "--machine wall", "--compute shape needs --machine");
  refused(1, "--serving.decode-dies 9", "do not divide");
  refused(1, "--modelled.experts 4", "modelled.experts: 4, but a token chooses 8");
  refused(1, "--modelled.expert-load zipf:x", "zipf:ALPHA");
  refused(1, "--modelled.placed-for even", "modelled.placed_for: 'even', but modelled.expert_load is even");
  refused(1, "--serving.mtp on", "it is modelled.mtp");
  refused(1, "--serving.microbatches 2", "it is modelled.microbatches");
  refused(1, "--workload steady --batch-per-npu 97", "--batch-per-npu");
  refused(3, "--workload steady", "14");
  const Outcome small_pool = supernode_on(
      8, "serve --config configs/quickstart.ini --machine cloudmatrix384 --max-requests 4 --pool.capacity 1M");
  CHECK(small_pool.code == 2);
  CHECK_THAT(small_pool.err, Contains("pool.capacity: 1 MiB is too small"));
  const auto refused_shape = [](const std::string& options, const std::string& why) {
    check_refused(supernode_on(8, "serve --config configs/quickstart.ini --machine cloudmatrix384 " + options), 2, why);
  };
  refused_shape("--compute shape --payload carried --pool.capacity 256K", "pool.capacity: 256 KiB is too small");
  refused_shape("--compute shape --payload carried --pool.store-buffer 4K", "pool.store_buffer: 4 KiB is less than");
  refused_shape("--compute shape --payload carried --serving.exchange pigeons", "pigeons");
  refused_shape("--compute real --payload elided", "--payload elided needs --compute shape");
  refused(14, "--inject owner_loss --trace " + small_trace(), "--inject");
  refused(14, "--time-scale 1e12 --trace " + small_trace(), "--time-scale");
  refused(14, "--workload steady-prefill --prompt-tokens 16000000", "prefill batch");
  refused(14, "--workload steady-prefill --prompt-tokens 400000", "places");
}

TEST_CASE("prompts that all dies of an instance share draw the same tokens, in every run alike") {
  const std::string command = shape_run + "--trace " + small_trace();
  const Json whole = document_of(supernode_on(14, command))["results"];
  const std::string splitting = command + " --serving.split-prompts 1500 --serving.chunk-tokens 1700 ";
  const Json split = document_of(supernode_on(14, splitting))["results"];
  CHECK(split["completed"] == 40);
  CHECK(split["pool"]["hit_tokens"].get<int>() > 0);
  check_requests(split);
  REQUIRE(split["requests"].size() == whole["requests"].size());
  for (std::size_t i = 0; i < whole["requests"].size(); ++i)
    CHECK(split["requests"][i]["output_token_ids"] == whole["requests"][i]["output_token_ids"]);
  CHECK(modelled_part(document_of(supernode_on(14, splitting))["results"]) == modelled_part(split));
  // The real pool has what the directory says, and decode dies get what they wait for, from both dies.
  const std::string small =
      "serve --config configs/quickstart.ini --machine cloudmatrix384 --serving.prefill-instances 1 "
      "--serving.prefill-dies 2 --serving.decode-dies 4 --serving.split-prompts 60 --max-requests 24 --save-detailed "
      "--save-tokens --format json ";
  for (const char* compute : {"--compute real", "--compute shape --payload carried"}) {
    INFO(compute);
    const Json really = document_of(supernode_on(8, small + compute))["results"];
    CHECK(really["completed"] == 24);
    CHECK(really["pool"]["hit_tokens"].get<int>() > 0);
    check_requests(really);
  }
}
