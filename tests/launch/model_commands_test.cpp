// supernode generate, eval, import and bench model.
#include "tests/moe/changed_model.hpp"
#include "tests/support/run_command.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;

TEST_CASE("the shipped model: accuracy of each type, greedy text, guesses that change nothing") {
  const std::string folder = test::shared_path("models/shakespeare-moe");
  if (folder.empty()) return;
  const Json reference = parse_json(read_file(folder + "/reference.json"), "reference.json");
  const double expected = reference["nats_per_token"].get<double>();
  const std::string int8_file = scratch_path("int8.h5");
  document_of(supernode_on(
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
        document_of(supernode_on(2, "eval --window 256 --format json --text " + folder + "/val.txt " + row.options));
    CHECK(eval["results"]["nats_per_token"].get<double>() == Approx(expected).epsilon(row.tolerance));
  }
  for (const char* mtp : {"on", "off", "auto"}) {
    INFO(mtp);
    const Json text = document_of(supernode_on(
        2, "generate --max-tokens 200 --prompt-tokens 82,79,77,69,79,58,10 --format json --mtp " + std::string(mtp)));
    CHECK(text["results"]["tokens"].size() == 200);
    const std::string greedy = reference["greedy_200"].get<std::string>();
    CHECK(("ROMEO:\n" + text["results"]["text"].get<std::string>()).substr(0, greedy.size()) == greedy);
    CHECK((text["results"]["guessed"].get<int>() > 0) == (std::string(mtp) != "off"));
  }
}

TEST_CASE("bench model reports prefill and decode beside the bare products") {
  const Json document = document_of(supernode_on(
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

TEST_CASE("logits that are no numbers end generate and eval with 1 and the position, on all ranks alike") {
  const std::string folder = (scratch() / "not-finite").string(), written = (scratch() / "logits.safetensors").string();
  std::filesystem::create_directories(folder);
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
  CHECK_FALSE(std::filesystem::exists(written));
}

TEST_CASE("serve fails the requests whose logits are no numbers, names the first, and exits with 1") {
  const std::string folder = scratch_path("not-finite-served");
  std::filesystem::create_directories(folder);
  test::ChangedModel model;
  for (float& weight : model.tensors.at("model.norm.weight").values) weight = 3e38f;
  model.set("tokenizer", "bytes").write(folder);
  const std::string trace = scratch_file("two.jsonl",
                                         "{\"timestamp\": 0, \"input_length\": 20, \"output_length\": 3}\n"
                                         "{\"timestamp\": 5, \"input_length\": 30, \"output_length\": 1}\n");
  const Outcome outcome = supernode_on(
      3, "serve --serving.prefill-instances 1 --serving.decode-dies 1 --serving.cache-ranks 0 --format json --model " +
             folder + " --trace " + trace);
  CHECK(outcome.code == 1);
  CHECK_THAT(outcome.err, Contains("request 0 failed: the logits of its first token are not finite"));
  const Json results = parse_json(outcome.out, "stdout")["results"];
  CHECK(results["completed"] == 0);
  CHECK(results["failed"] == 2);
  CHECK(results["failures"].size() == 2);
  CHECK(results["mean_ttft_ms"].is_null());
}
