// Checkpoints: good ones in every form, and a table of bad ones with the one line that each gets.
#include "runtime/core/files.hpp"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include <fmt/format.h>
#include <unistd.h>

#include "moe/checkpoint.hpp"
#include "moe/checkpoint/safetensors.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/json.hpp"
#include "tests/support/catch.hpp"

namespace supernode::moe {
namespace {
namespace fs = std::filesystem;

/// A folder that goes away with the test.
struct Folder {
  Folder() : path(fs::temp_directory_path() / fmt::format("supernode-moe-{}", ::getpid())) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
  fs::path path;
};

void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

/// The bytes of a safetensors file with this header and `data_bytes` zeros.
std::string file_bytes(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, '\0');
}

const char* const tiny_config = R"({"vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1,
  "max_position_embeddings": 16, "num_attention_heads": 2, "kv_lora_rank": 4, "qk_nope_head_dim": 2,
  "qk_rope_head_dim": 2, "v_head_dim": 2, "intermediate_size": 8, "n_routed_experts": 8, "num_experts_per_tok": 2,
  "moe_intermediate_size": 4, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1})";

/// tiny_config with one key set to a JSON text; "" removes it.
std::string config_with(const std::string& key, const std::string& value) {
  Json json = Json::parse(tiny_config);
  if (value.empty()) {
    json.erase(key);
  } else {
    json[key] = Json::parse(value);
  }
  return json.dump();
}

}  // namespace

TEST_CASE("safetensors: what is written is read, in every type that weights come in") {
  const Folder folder;
  const std::vector<float> f32{1, -2.5f, 0, 3};
  const std::vector<std::uint16_t> bf16{0x3f80, 0xc020}, f16{0x3c00, 0xc100, 0x0001, 0x7bff};
  const std::vector<double> f64{0.5};
  const std::vector<std::int64_t> i64{7, -1};
  const TensorToWrite tensors[] = {{"a", ElementType::f32, {2, 2}, std::as_bytes(std::span(f32))},
                                   {"b", ElementType::bf16, {2}, std::as_bytes(std::span(bf16))},
                                   {"c", ElementType::f16, {4, 1}, std::as_bytes(std::span(f16))},
                                   {"d", ElementType::f64, {}, std::as_bytes(std::span(f64))},
                                   {"e", ElementType::i64, {2}, std::as_bytes(std::span(i64))},
                                   {"empty", ElementType::f32, {0, 3}, {}}};
  const std::string path = folder / "t.safetensors";
  write_safetensors(path, tensors);
  CHECK_THROWS_WITH(write_safetensors(path, tensors), Catch::Contains("it exists"));

  const SafetensorsFile file(path);
  const auto read = [&](const std::string& name) {
    std::vector<float> values(file.at(name).size());
    CHECK(convert_to_f32(file.at(name), values));
    return values;
  };
  CHECK(file.tensors().size() == 6);
  CHECK(read("a") == f32);
  CHECK(file.at("a").shape == std::vector<std::int64_t>{2, 2});
  CHECK(read("b") == std::vector<float>{1, -2.5f});
  CHECK(read("c") == std::vector<float>{1, -2.5f, 0x1.0p-24f, 65504});
  CHECK(read("d") == std::vector<float>{0.5f});
  CHECK(read("empty").empty());
  std::vector<std::int32_t> integers(2);
  CHECK(convert_to_i32(file.at("e"), integers));
  CHECK(integers == std::vector<std::int32_t>{7, -1});
  CHECK_FALSE(convert_to_i32(file.at("b"), integers));
  CHECK_THROWS_WITH(file.at("none"), Catch::Contains("t.safetensors: no tensor 'none'"));
}

TEST_CASE("safetensors: malformed files get one line that names file and tensor") {
  const Folder folder;
  const auto tensor = [](const char* dtype, const char* shape, const char* offsets) {
    return fmt::format(R"({{"w": {{"dtype": "{}", "shape": {}, "data_offsets": {}}}}})", dtype, shape, offsets);
  };
  const std::string good = tensor("F32", "[2, 2]", "[0, 16]");
  const struct {
    std::string bytes, message;
  } rows[] = {
      {"", "truncated"},
      {"abc", "truncated"},
      {file_bytes(good, 16).substr(0, 20), "truncated: header of"},
      {std::string(8, '\xff') + "{}", "absurd"},
      {std::string("\x00\x00\x00\x40\x00\x00\x00\x00{}", 10), "absurd"},
      {file_bytes("{\"w\": ", 0), "header"},
      {file_bytes("garbage!", 16), "header"},
      {file_bytes("[1, 2]", 0), "not a JSON object"},
      {file_bytes(R"({"w": 3})", 0), "'w': needs dtype"},
      {file_bytes(R"({"w": {"dtype": "F32", "shape": [1]}})", 4), "'w': needs dtype"},
      {file_bytes(good, 15), "'w': data_offsets [0, 16] reach beyond the 15 bytes"},
      {file_bytes(tensor("F32", "[1]", "[0, 16]"), 8), "'w': data_offsets [0, 16] reach beyond the 8 bytes"},
      {file_bytes(tensor("F32", "[2]", "[8, 0]"), 16), "'w': data_offsets [8, 0] run backwards"},
      {file_bytes(tensor("F32", "[3]", "[0, 16]"), 16), "'w': 16 bytes for F32 of shape [3]"},
      {file_bytes(R"({"w": {"dtype": 8, "shape": [16], "data_offsets": [0, 16]}})", 16), "'w': dtype is not a name"},
      {file_bytes(tensor("F32", "[-1]", "[0, 16]"), 16), "'w': shape holds something"},
      {file_bytes(tensor("F32", "[1.5]", "[0, 16]"), 16), "'w': shape holds something"},
      {file_bytes(tensor("F32", "\"x\"", "[0, 16]"), 16), "'w': shape is not a list"},
      {file_bytes(tensor("F32", "[4294967296, 4294967296]", "[0, 16]"), 16), "'w': shape is larger"},
      {file_bytes(tensor("F32", "[4]", "[0]"), 16), "'w': data_offsets are not two"},
      {file_bytes(tensor("F32", "[4]", "[-4, 12]"), 16), "'w': data_offsets are not two"},
      {file_bytes(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                      "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}})",
                  12),
       "'a' and 'b' overlap"},
  };
  for (std::size_t i = 0; i < std::size(rows); ++i) {
    const std::string path = folder / fmt::format("bad{}.safetensors", i);
    write(path, rows[i].bytes);
    INFO("row " << i);
    CHECK_THROWS_AS(SafetensorsFile(path), UsageError);
    CHECK_THROWS_WITH(SafetensorsFile(path), Catch::StartsWith(path) && Catch::Contains(rows[i].message));
  }
  CHECK_THROWS_WITH(SafetensorsFile(folder / "none"), Catch::Contains("No such file"));
  CHECK_THROWS_WITH(SafetensorsFile(folder.path.string()), Catch::Contains("not a regular file"));
}

TEST_CASE("config: both generations and their defaults") {
  const ModelConfig v3 = parse_model_config(tiny_config, "c");
  CHECK(v3.scoring == GateScoring::sigmoid);
  CHECK(v3.method == GateMethod::noaux_tc);
  CHECK(v3.normalise_weights);
  CHECK(v3.q_lora_rank == 0);
  CHECK(v3.kv_width() == 6);
  CHECK_FALSE(v3.yarn);
  const ModelConfig v2 = parse_model_config(config_with("model_type", "\"deepseek_v2\""), "c");
  CHECK(v2.scoring == GateScoring::softmax);
  CHECK(v2.method == GateMethod::greedy);
  CHECK_FALSE(v2.normalise_weights);
  const ModelConfig shakespeare =
      parse_model_config(read_file(test::source_path("configs/models/shakespeare-moe/config.json")), "c");
  CHECK(shakespeare.tokenizer == "bytes");
  CHECK(shakespeare.n_mtp_layers == 1);
  CHECK_FALSE(shakespeare.is_moe_layer(0));
  CHECK(shakespeare.is_moe_layer(1));
  CHECK(parse_model_config(read_file(test::source_path("tests/moe/golden/yarn/config.json")), "c").yarn->factor == 40);
}

TEST_CASE("config: mistakes get one line that names file and key") {
  const struct {
    const char *key, *value, *message;
  } rows[] = {
      {"hidden_size", "", "c: 'hidden_size' is missing"},
      {"hidden_size", "null", "'hidden_size' is missing"},
      {"hidden_size", "\"64\"", "'hidden_size' is \"64\", not a whole number"},
      {"hidden_size", "64.5", "'hidden_size' is 64.5, not a whole number"},
      {"hidden_size", "0", "'hidden_size' is 0, outside 1.."},
      {"hidden_size", "-4", "'hidden_size' is -4, outside"},
      {"vocab_size", "18446744073709551615", "'vocab_size' is 18446744073709551615, outside"},
      {"num_hidden_layers", "1000000", "'num_hidden_layers' is 1000000, outside"},
      {"num_attention_heads", "[]", "'num_attention_heads' is [], not a whole number"},
      {"kv_lora_rank", "", "'kv_lora_rank' is missing"},
      {"qk_rope_head_dim", "3", "'qk_rope_head_dim' is 3, not even"},
      {"rope_theta", "\"x\"", "'rope_theta' is \"x\", not a number"},
      {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", "'rope_scaling.type' is 'linear'; supported: yarn"},
      {"rope_scaling", "{\"type\": \"yarn\"}", "'rope_scaling.original_max_position_embeddings' is missing"},
      {"rope_scaling", "3", "'rope_scaling' is not an object"},
      {"norm_topk_prob", "1", "'norm_topk_prob' is 1, not true or false"},
      {"scoring_func", "\"relu\"", "'scoring_func' is 'relu'; supported: sigmoid, softmax"},
      {"topk_method", "\"best\"", "'topk_method' is 'best'; supported: noaux_tc"},
      {"num_experts_per_tok", "9", "'num_experts_per_tok' is 9, outside 1..8"},
      {"num_experts_per_tok", "5", "'num_experts_per_tok' is 5, but 2 groups hold 4 experts"},
      {"n_group", "3", "'n_group' is 3, which does not divide 8 experts"},
      {"n_group", "8", "groups of one expert"},
      {"topk_group", "5", "'topk_group' is 5, outside 1..4"},
      {"moe_intermediate_size", "", "'moe_intermediate_size' is missing"},
      {"intermediate_size", "", "'intermediate_size' is missing"},
      {"hidden_act", "\"gelu\"", "'hidden_act' is 'gelu'; supported: silu"},
      {"model_type", "\"llama\"", "'model_type' is 'llama'; supported: deepseek_v3"},
      {"attention_bias", "true", "'attention_bias' is true"},
      {"tokenizer", "\"bpe\"", "'tokenizer' is 'bpe'; supported: bytes"},
      {"tokenizer", "\"bytes\"", "'vocab_size' is 8, but the byte tokenizer has 256"},
      {"eos_token_id", "8", "'eos_token_id' is 8, outside 0..7"},
      {"eos_token_id", "\"x\"", "'eos_token_id' is \"x\", not a whole number"},
      {"eos_token_id", "[1, 8]", "'eos_token_id' holds 8, outside 0..7"},
  };
  for (const auto& row : rows) {
    INFO(row.key << " = " << row.value);
    CHECK_THROWS_AS(parse_model_config(config_with(row.key, row.value), "c"), UsageError);
    CHECK_THROWS_WITH(parse_model_config(config_with(row.key, row.value), "c"),
                      Catch::StartsWith("c: ") && Catch::Contains(row.message));
  }
  CHECK_THROWS_AS(parse_model_config("", "c"), UsageError);
  CHECK_THROWS_AS(parse_model_config("{\"vocab_size\":", "c"), UsageError);
  CHECK_THROWS_WITH(parse_model_config("[]", "c"), "c: not a JSON object");
}

TEST_CASE("checkpoint: one file or an index of shards, and what may be wrong with them") {
  const Folder folder;
  const std::string directory = folder.path.string();
  CHECK_THROWS_WITH(Checkpoint(folder / "nowhere"), Catch::Contains("no such folder"));
  CHECK_THROWS_WITH(Checkpoint{directory}, Catch::Contains("config.json"));
  write(folder / "config.json", tiny_config);
  CHECK_THROWS_WITH(Checkpoint{directory}, Catch::Contains("neither model.safetensors nor"));

  const std::vector<float> values{1, 2, 3, 4}, bad{1, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<std::int32_t> integers{1, 2};
  const TensorToWrite a{"a", ElementType::f32, {2, 2}, std::as_bytes(std::span(values))},
      b{"b", ElementType::f32, {2}, std::as_bytes(std::span(bad))},
      c{"c", ElementType::i32, {2}, std::as_bytes(std::span(integers))};
  write_safetensors(folder / "one.safetensors", std::vector{a});
  write_safetensors(folder / "two.safetensors", std::vector{b, c});
  const std::string index = folder / "model.safetensors.index.json";
  write(index, R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors",
                                  "ghost": "one.safetensors"}})");
  Checkpoint sharded(directory);
  CHECK(sharded.has("a"));
  CHECK_FALSE(sharded.has("z"));
  CHECK(sharded.read("a", {2, 2}) == values);
  CHECK_THROWS_WITH(
      sharded.read("a", {4}),
      Catch::Contains("one.safetensors: tensor 'a' has shape [2, 2], but the configuration asks for [4]"));
  CHECK_THROWS_WITH(sharded.read("b", {2}),
                    Catch::Contains("two.safetensors: tensor 'b' holds a value that is not finite"));
  CHECK_THROWS_WITH(sharded.read("c", {2}), Catch::Contains("tensor 'c' is I32; supported"));
  CHECK_THROWS_WITH(sharded.read("z", {2}), Catch::Contains("index.json: no tensor 'z'"));
  CHECK_THROWS_WITH(sharded.read("ghost", {2}), Catch::Contains("one.safetensors: no tensor 'ghost'"));

  const struct {
    const char *index, *message;
  } rows[] = {
      {"", "index.json"},
      {"{}", "'weight_map' is missing"},
      {R"({"weight_map": {"a": 3}})", "tensor 'a' names no file"},
      {R"({"weight_map": {"a": "../one.safetensors"}})", "tensor 'a' names no file"},
      {R"({"weight_map": {"a": "one.safetensors", "b": "three.safetensors"}})",
       "shard 'three.safetensors' (tensor 'b') is not in the folder"},
  };
  for (const auto& row : rows) {
    write(index, row.index);
    CHECK_THROWS_AS(Checkpoint{directory}, UsageError);
    CHECK_THROWS_WITH(Checkpoint{directory}, Catch::Contains(row.message));
  }
  fs::remove(index);
  fs::rename(folder / "one.safetensors", folder / "model.safetensors");
  CHECK(Checkpoint(directory).read("a", {2, 2}) == values);
}

TEST_CASE("checkpoint: from any source of files, piece by piece") {
  class Counting : public DiskFiles {
   public:
    using DiskFiles::DiskFiles;
    void read(const std::string& name, std::uint64_t offset, std::span<std::byte> out) override {
      bytes_read += out.size();
      DiskFiles::read(name, offset, out);
    }
    std::uint64_t bytes_read = 0;
  };
  const std::string directory = find_model(default_model);
  const auto files = std::make_shared<Counting>(directory, std::vector<std::string>{".json", ".safetensors"});
  CHECK(files->has("model.safetensors"));
  Checkpoint direct(directory), from_source(files);
  CHECK(from_source.config_text() == direct.config_text());
  const std::vector<TensorInfo> tensors = direct.tensors();
  CHECK(from_source.tensors().size() == tensors.size());
  const auto same = [&](const TensorInfo& tensor) {
    return from_source.read(tensor.name, std::span(tensor.shape)) == direct.read(tensor.name, std::span(tensor.shape));
  };
  CHECK(same(tensors.front()));
  CHECK(files->bytes_read < 2'000'000);  // of 7.7 MB: only what was asked for
  for (const TensorInfo& tensor : tensors) CHECK(same(tensor));
  CHECK_FALSE(from_source.has("nothing"));

  const Folder folder;
  CHECK_THROWS_WITH(Checkpoint(std::make_shared<DiskFiles>(folder.path.string())),
                    Catch::Contains("no file 'config.json'"));
  write(folder / "config.json", tiny_config);
  CHECK_THROWS_WITH(Checkpoint(std::make_shared<DiskFiles>(folder.path.string())), Catch::Contains("index.json"));
  CHECK_THROWS_AS(DiskFiles(folder / "nowhere"), UsageError);
}

TEST_CASE("models are found below the source tree from anywhere") {
  CHECK(fs::exists(find_model(default_model) + "/config.json"));
  CHECK(find_model("no/such/model") == "no/such/model");
  CHECK(find_model("/no/such/model") == "/no/such/model");
}

}  // namespace supernode::moe
