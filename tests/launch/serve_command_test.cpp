// supernode serve.
#include <map>

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
  const Json results = document_of(supernode_on(8,
                                                "serve --config configs/quickstart.ini --max-requests 6 --time-scale 0 "
                                                "--pool.deadline 0.3 --inject owner_loss+4 --format json"))["results"];
  CHECK(results["completed"] == 6);
  CHECK(results["failed"] == 0);
  const Json& pool = results["pool"];
  CHECK(pool["miss_reasons"]["owner_down"].get<int>() > 0);
  CHECK(pool["hit_tokens"].get<int>() + pool["computed_tokens"].get<int>() == results["total_input_tokens"].get<int>());
}
