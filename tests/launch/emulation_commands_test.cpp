// supernode validate and plan.
#include "tests/support/run_command.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;

TEST_CASE("validate holds the shipped machines against the published tables, and can fail") {
  const Json document = document_of(supernode_alone("validate --format json"));
  CHECK(document["schema"] == "supernode.validate/1");
  const Json& results = document["results"];
  CHECK(results["passed"] == true);
  CHECK(results["rows"].size() >= 100);
  for (const Json& row : results["rows"]) {
    const double published = row["published"], modelled = row["modelled"], error = row["error_pct"];
    CHECK(error == Approx(100 * (modelled / published - 1)).margin(1e-6));
    CHECK((row["kind"] == "fit" || row["kind"] == "predicted"));
  }
  const Outcome strict = supernode_alone("validate --tolerance 0.1");
  CHECK(strict.code == 1);
  CHECK_THAT(strict.out, Contains("FAILED"));
  const Outcome terms = supernode_alone("validate --explain decode_layer_mtp");
  CHECK(terms.code == 0);
  CHECK_THAT(terms.out, Contains("dispatch") && Contains("absorb"));
}

TEST_CASE("plan finds a deployment within the objectives") {
  const std::string trace = scratch_path("plan.json");
  const Json document = document_of(supernode_alone("plan --format json --runners-up 2 --trace " + trace));
  const Json& best = document["results"]["best"];
  CHECK(best["tpot_ms"].get<double>() <= 50);
  CHECK(best["npus"].get<int>() <= 256);
  CHECK(document["results"]["runners_up"].size() == 2);
  CHECK(best["output_tokens_per_s_per_npu"].get<double>() >=
        document["results"]["published"]["output_tokens_per_s_per_npu"].get<double>());
  CHECK(parse_json(read_file(trace), trace)["traceEvents"].size() > 100);
  const Json given = document_of(
      supernode_alone("plan --format json --decode-npus 72 --decode-instances 2 --batch 64 --prefill-npus 16"));
  CHECK(given["results"]["best"]["decode"]["npus"] == 72);
  CHECK(given["results"]["best"]["decode"]["instances"] == 2);
  CHECK(given["results"]["best"]["decode"]["batch_per_npu"] == 64);
  const Outcome impossible = supernode_alone("plan --tpot 0.1");
  CHECK(impossible.code == 1);
  CHECK(impossible.complaints().size() == 1);
}
