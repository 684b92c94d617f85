// Checkpoints that would be computed wrongly if something in them went unseen: keys of the configuration that change
// the mathematics, tensors that nobody reads, two sets of weights, files that are not what their names say.
#include "moe/checkpoint.hpp"

#include <cstring>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <unistd.h>

#include "moe/hdf5_import.hpp"
#include "moe/kv_cache.hpp"
#include "moe/parameter_count.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "tests/moe/changed_model.hpp"
#include "tests/support/catch.hpp"

namespace supernode::moe {
namespace {
namespace fs = std::filesystem;
using test::ChangedModel;

/// An empty folder that goes away with the test.
struct Folder {
  Folder() : path((fs::temp_directory_path() / fmt::format("supernode-checkpoint-{}", ::getpid())).string()) {
    clear();
  }
  ~Folder() { fs::remove_all(path); }
  void clear() const {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  std::string path;
};

void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

ModelConfig parse(const Json& config) { return parse_model_config(config.dump(), "c"); }
ModelConfig parse_with(const std::string& key, const char* value) {
  return parse(ChangedModel().set(key, Json::parse(value)).config);
}

/// A safetensors file whose tensors, but the first of 4 bytes, are of a type that nobody knows here.
std::string with_type(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, '\0');
}

}  // namespace

TEST_CASE("config: rotary settings in every place where files have them") {
  const Json yarn =
      Json::parse(R"({"type": "yarn", "factor": 4, "original_max_position_embeddings": 16, "beta_fast": 32,
                                    "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707})");
  Json newer = yarn;
  newer.erase("type");
  newer["rope_type"] = "yarn";
  newer["rope_theta"] = 50000;
  ChangedModel older_model, newer_model, inside_model;
  const ModelConfig older = parse(older_model.set("rope_theta", 50000).set("rope_scaling", yarn).config);
  newer_model.config.erase("rope_theta");
  inside_model.config.erase("rope_theta");
  const ModelConfig same = parse(newer_model.set("rope_parameters", newer).config),
                    inside = parse(inside_model.set("rope_scaling", newer).config);
  REQUIRE(older.yarn);
  for (const ModelConfig& c : {older, same, inside}) {
    CHECK(c.rope_theta == 50000);
    CHECK(c.yarn == older.yarn);
  }
  CHECK(older.yarn->factor == 4);
  CHECK(older.yarn->original_max_positions == 16);

  ChangedModel base_only;
  base_only.config.erase("rope_theta");
  CHECK(parse(base_only.set("rope_parameters", Json{{"rope_theta", 7}}).config).rope_theta == 7);
  CHECK_FALSE(parse(base_only.config).yarn);

  const auto refused = [&](const Json& scaling, const Json& parameters, const std::string& message) {
    INFO(message);
    const Json config = ChangedModel().set("rope_scaling", scaling).set("rope_parameters", parameters).config;
    CHECK_THROWS_WITH(parse(config), Catch::StartsWith("c: 'rope_") && Catch::Contains(message));
  };
  Json other = newer, untruncated = yarn, scaled = yarn, both = yarn, odd = yarn;
  other["factor"] = 8;
  other["rope_theta"] = 10000;
  untruncated["truncate"] = false;
  scaled["attention_factor"] = 2.0;
  both["rope_type"] = "default";
  odd["finetuned"] = true;
  refused(yarn, other, "give different settings");
  refused({}, newer, "rope_parameters.rope_theta' is 50000, but it is 10000 elsewhere");
  refused(untruncated, {}, "rope_scaling.truncate' is false");
  refused(scaled, {}, "rope_scaling.attention_factor' is 2, but factor and mscale give 1");
  refused(both, {}, "rope_scaling.rope_type' is 'default', but type is 'yarn'");
  refused(odd, {}, "rope_scaling.finetuned' is true, and unknown");
  refused(Json{{"rope_type", "llama3"}, {"factor", 8}}, {}, "rope_scaling.rope_type' is 'llama3'; supported: yarn");
  refused({}, Json{{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}, "partial_rotary_factor' is not 1");
  refused({}, Json{{"full_attention", Json{{"rope_theta", 1}}}}, "rope_parameters.full_attention' is {");
  scaled["attention_factor"] = 1.0;
  CHECK(parse(ChangedModel().set("rope_scaling", scaled).config).yarn);
}

TEST_CASE("config: a key that asks for other mathematics is refused by name") {
  const struct {
    const char *key, *value, *message;
  } rows[] = {
      {"rope_interleave", "false", "is false, but this program computes with true"},
      {"partial_rotary_factor", "0.5", "is 0.5, but this program computes with 1"},
      {"mlp_bias", "true", "computes with false"},
      {"attention_bias", "true", "computes with false"},
      {"use_qk_norm", "true", "computes with false"},
      {"gated_attention", "true", "computes with false"},
      {"index_topk", "16", "computes with none"},
      {"swiglu_limit", "7.0", "computes with none"},
      {"final_logit_softcapping", "30.0", "computes with none"},
      {"attn_logit_softcapping", "50.0", "computes with none"},
      {"logit_scale", "0.0625", "computes with 1"},
      {"sliding_window", "16", "a token attends to all before it"},
      {"use_sliding_window", "true", "computes with false"},
      {"num_key_value_heads", "2", "but the other sizes give 4"},
      {"head_dim", "32", "but the other sizes give 8"},
      {"qk_head_dim", "32", "but the other sizes give 24"},
      {"num_local_experts", "8", "but the other sizes give 16"},
      {"layer_types", R"(["full_attention", "linear_attention", "full_attention", "full_attention"])", "of layer 1"},
      {"mlp_layer_types", R"(["dense", "dense", "sparse", "sparse"])",
       "of layer 1, which this program computes as sparse"},
      {"mlp_layer_types", R"(["dense"])", "not a list of 4 layers"},
      {"moe_layer_freq", "[0, 1, 1, 1]", "not a whole number"},
      {"hidden_act", "\"relu2\"", "supported: silu"},
      {"architectures", R"(["GatedForCausalLM"])", "holds \"GatedForCausalLM\""},
      {"architectures", R"(["DeepseekV2ForCausalLM"])", "computed as DeepseekV3ForCausalLM"},
      {"architectures", "\"x\"", "not a list"},
      {"moe_router_dtype", "\"bfloat16\"", "supported: float32"},
      {"vision_config", R"({"hidden_size": 8})", "and unknown"},
      {"a_new_switch", "true", "and unknown"},
      {"a_new_factor", "2", "and unknown"},
      {"norm_type", "\"layernorm\"", "and unknown"},
  };
  for (const auto& row : rows) {
    INFO(row.key << " = " << row.value);
    CHECK_THROWS_AS(parse_with(row.key, row.value), UsageError);
    CHECK_THROWS_WITH(parse_with(row.key, row.value),
                      Catch::StartsWith(fmt::format("c: '{}' ", row.key)) && Catch::Contains(row.message));
  }
}

TEST_CASE("config: keys that change nothing, and those that say what is computed, are taken") {
  const std::pair<const char*, const char*> rows[] = {
      {"rope_interleave", "true"},
      {"partial_rotary_factor", "1.0"},
      {"mlp_bias", "false"},
      {"attention_dropout", "0.1"},
      {"ep_size", "8"},
      {"sliding_window", "null"},
      {"sliding_window", "4096"},
      {"head_dim", "8"},
      {"head_dim", "24"},
      {"qk_head_dim", "24"},
      {"num_local_experts", "16"},
      {"num_key_value_heads", "null"},
      {"logit_scale", "1.0"},
      {"swiglu_limit", "null"},
      {"transformers_version", "\"5\""},
      {"aux_loss_alpha", "0.001"},
      {"pad_token_id", "2"},
      {"auto_map", R"({"AutoConfig": "x"})"},
      {"_name_or_path", "\"x\""},
      {"unsloth_version", "\"2025.1\""},
      {"a_new_switch", "false"},
      {"a_new_list", "[]"},
      {"mlp_layer_types", R"(["dense", "sparse", "sparse", "sparse"])"},
      {"layer_types", R"(["full_attention", "full_attention", "full_attention", "full_attention"])"},
      {"hidden_act", "\"swish\""},
      {"moe_router_dtype", "\"float32\""}};
  for (const auto& [key, value] : rows) {
    INFO(key << " = " << value);
    CHECK_NOTHROW(parse_with(key, value));
  }
  Json windowless = ChangedModel().set("use_sliding_window", false).set("sliding_window", 16).config;
  windowless["max_window_layers"] = 2;
  CHECK_NOTHROW(parse(windowless));
  Json listed = ChangedModel().config;
  listed.erase("first_k_dense_replace");
  listed["mlp_layer_types"] = Json::parse(R"(["dense", "dense", "sparse", "sparse"])");
  CHECK(parse(listed).first_dense_layers == 2);
  for (const char* shipped :
       {"configs/models/deepseek-r1", "configs/models/shakespeare-moe", "tests/moe/golden/yarn"}) {
    const std::string path = test::source_path(std::string(shipped) + "/config.json");
    CHECK_NOTHROW(parse_model_config(read_file(path), path));
  }
}

TEST_CASE("checkpoint: tensors that nobody reads are refused in computed layers, and named elsewhere") {
  const Folder folder;
  const auto written = [&](const ChangedModel& model) {
    folder.clear();
    model.write(folder.path);
    return folder.path;
  };
  CHECK(Checkpoint(written(ChangedModel())).unread_note().empty());
  const auto refused = [&](const ChangedModel& model, const std::string& tensor) {
    INFO(tensor);
    written(model);
    CHECK_THROWS_AS(Checkpoint(folder.path), UsageError);
    CHECK_THROWS_WITH(Checkpoint(folder.path),
                      Catch::Contains("'" + tensor + "'") && Catch::Contains("is not part of"));
  };
  for (const char* name :
       {"model.layers.0.self_attn.gate_proj.weight", "model.layers.1.self_attn.indexer.wk.weight",
        "model.layers.2.self_attn.q_a_proj.bias", "model.layers.2.self_attn.q_proj.weight",
        "model.layers.0.mlp.gate.weight", "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.experts.16.up_proj.weight", "model.layers.3.mlp.experts.0.up_proj.weight_scale_inv",
        "model.layers.1.post_mlp_layernorm.weight"})
    refused(ChangedModel().add(name, {4, 4}), name);
  refused(ChangedModel().set("n_shared_experts", 0), "model.layers.1.mlp.shared_experts.down_proj.weight");
  refused(ChangedModel().set("num_hidden_layers", 3), "model.layers.3.input_layernorm.weight");
  refused(ChangedModel().set("n_routed_experts", 8), "model.layers.1.mlp.experts.10.down_proj.weight");
  refused(ChangedModel().set("topk_method", "greedy"), "model.layers.1.mlp.gate.e_score_correction_bias");

  // What every copy may have; and what is only named.
  written(ChangedModel()
              .add("model.layers.0.self_attn.rotary_emb.inv_freq", {4})
              .add("model.layers.4.eh_proj.weight", {4, 4})
              .add("model.layers.4.self_attn.odd.weight", {4, 4}));
  CHECK(Checkpoint(folder.path).unread_note().empty());
  written(ChangedModel().add("vision.a", {2}).add("vision.b", {2}));
  CHECK_THAT(Checkpoint(folder.path).unread_note(), Catch::Contains("'vision.a' and 1 others"));

  // A head beside an embedding that is said to be the head.
  ChangedModel tied;
  tied.set("tie_word_embeddings", true);
  written(tied);
  CHECK_THROWS_WITH(Checkpoint(folder.path), Catch::Contains("'lm_head.weight' is not 'model.embed_tokens.weight'"));
  tied.tensors["lm_head.weight"] = tied.tensors["model.embed_tokens.weight"];
  CHECK_NOTHROW(Checkpoint(written(tied)));
}

TEST_CASE("checkpoint: two sets of weights are refused") {
  const Folder folder;
  const ChangedModel model;
  model.write(folder.path);
  const std::string index = folder / "model.safetensors.index.json";
  const auto index_of = [&](const std::string& file) {
    Json map = Json::object();
    for (const auto& [name, tensor] : model.tensors) map[name] = file;
    return Json{{"weight_map", map}}.dump();
  };
  write(index, index_of("model.safetensors"));
  CHECK_NOTHROW(Checkpoint(folder.path));
  Json ghost = Json::parse(index_of("model.safetensors"));
  ghost["weight_map"]["ghost"] = "model.safetensors";
  write(index, ghost.dump());
  CHECK_THROWS_WITH(Checkpoint(folder.path), Catch::Contains("tensor 'ghost' is not in model.safetensors"));
  fs::copy(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors");
  write(index, index_of("model-00001-of-00001.safetensors"));
  CHECK_THROWS_WITH(Checkpoint(folder.path), Catch::Contains("two sets of weights"));
  fs::remove(index);
  CHECK_THROWS_WITH(Checkpoint(folder.path), Catch::Contains("'model-00001-of-00001.safetensors' are two sets"));
  fs::remove(folder / "model.safetensors");
  write(index, index_of("model-00001-of-00001.safetensors"));
  CHECK_NOTHROW(Checkpoint(folder.path).read("model.norm.weight", {64}));

  // Tensors in a shard where the index does not place them.
  ChangedModel more = model;
  more.add("model.extra", {2}).write_weights(folder / "two.safetensors");
  Json split = Json::parse(index_of("model-00001-of-00001.safetensors"));
  split["weight_map"]["model.extra"] = "two.safetensors";
  write(index, split.dump());
  CHECK_THROWS_WITH(Checkpoint(folder.path).read("model.extra", {2}),
                    Catch::Contains("is in two.safetensors, but the index places it in model-00001"));
}

TEST_CASE("checkpoint: a tensor of an unknown type that nobody needs does no harm") {
  const Folder folder;
  const std::string path = folder / "odd.safetensors";
  write(path, with_type(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                            "b": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [4, 8]},
                            "c": {"dtype": "F4", "shape": [4], "data_offsets": [8, 10]}})",
                        10));
  const SafetensorsFile file(path);
  CHECK(file.tensors().size() == 1);
  CHECK(file.unknown().at("b").bytes == 4);
  CHECK_THROWS_WITH(file.at("b"), Catch::Contains("odd.safetensors: tensor 'b': dtype F8_E4M3 is not supported"));
  CHECK_NOTHROW(file.at("a"));
  fs::remove(path);

  // In a model: listed, left out by an import, and refused only where it is asked for.
  ChangedModel().write(folder.path);
  const std::string whole = read_file(folder / "model.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, whole.data(), 8);
  const auto with = [&](const std::string& name) {
    Json header = Json::parse(whole.substr(8, length));
    if (header.contains(name)) {
      header[name]["dtype"] = "F8_E5M2";
    } else {
      header[name] = {{"dtype", "F8_E5M2"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
    }
    write(folder / "model.safetensors", with_type(header.dump(), 0) + whole.substr(8 + length));
  };
  with("aside");
  Checkpoint usable(folder.path);
  CHECK_THAT(usable.unread_note(), Catch::Contains("'aside'"));
  CHECK(usable.read("model.norm.weight", {64}).size() == 64);
  const ImportSummary summary = import_checkpoint(usable, folder / "out.h5", ComputeType::f32);
  CHECK(summary.tensors == usable.tensors().size() - 1);
  with("model.norm.weight");
  Checkpoint broken(folder.path);
  CHECK_THROWS_WITH(broken.read("model.norm.weight", {64}), Catch::Contains("dtype F8_E5M2 is not supported"));
}

TEST_CASE("checkpoint: whether weights are quantised is what their types say") {
  const Folder folder;
  ChangedModel model;
  model.set("quantization_config", Json{{"quant_method", "fp8"}, {"fmt", "e4m3"}});
  model.write(folder.path);
  Checkpoint left_over(folder.path);
  CHECK(left_over.read("model.norm.weight", {64}).size() == 64);
  import_checkpoint(left_over, folder / "m.h5", ComputeType::bf16);
  CHECK_NOTHROW(Checkpoint(folder / "m.h5"));

  const std::string whole = read_file(folder / "model.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, whole.data(), 8);
  Json header = Json::parse(whole.substr(8, length));
  header["model.layers.0.self_attn.o_proj.weight"]["dtype"] = "F8_E4M3";
  write(folder / "model.safetensors", with_type(header.dump(), 0) + whole.substr(8 + length));
  CHECK_THROWS_WITH(Checkpoint(folder.path),
                    Catch::Contains("'quantization_config' is given, and tensor "
                                    "'model.layers.0.self_attn.o_proj.weight' is F8_E4M3: quantised weights"));
  folder.clear();
  model.add("model.layers.0.self_attn.o_proj.qweight", {2}).write(folder.path);
  CHECK_THROWS_WITH(Checkpoint(folder.path),
                    Catch::Contains("o_proj.qweight'") && Catch::Contains("quantised weights are not supported"));
}

TEST_CASE("checkpoint: what stands in the place of a file is named") {
  const Folder folder;
  const std::string lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
                    page = "\n<!DOCTYPE html>\n<html><head></head></html>\n";
  const ChangedModel model;
  const std::pair<std::string, std::string> rows[] = {
      {lfs, ": is a Git LFS pointer"},
      {page, ": is a web page"},
      {"Entry not found", ": holds a server's message ('Entry not found')"},
      {"GGUF\x03", ": is a GGUF file"}};
  for (const auto& [text, message] : rows) {
    INFO(message);
    folder.clear();
    model.write_config(folder.path);
    write(folder / "model.safetensors", text);
    CHECK_THROWS_AS(Checkpoint(folder.path), UsageError);
    CHECK_THROWS_WITH(Checkpoint(folder.path), Catch::StartsWith((folder / "model.safetensors") + message));
    write(folder / "one.h5", text);
    CHECK_THROWS_WITH(Checkpoint(folder / "one.h5"), Catch::StartsWith((folder / "one.h5") + message));
    write(folder / "config.json", text);
    CHECK_THROWS_WITH(Checkpoint(folder.path), Catch::StartsWith((folder / "config.json") + message));
    model.write_config(folder.path);
    fs::remove(folder / "model.safetensors");
    write(folder / "model.safetensors.index.json", text);
    CHECK_THROWS_WITH(Checkpoint(folder.path), Catch::StartsWith((folder / "model.safetensors.index.json") + message));
  }
}

TEST_CASE("counted parameters and cached bytes are those that a checkpoint and a cache have") {
  for (const std::string& path : {find_model(default_model), test::source_path("tests/moe/golden/tiny")}) {
    INFO(path);
    Checkpoint checkpoint(path);
    const ModelConfig& config = checkpoint.config();
    ParameterCount stored;
    const std::string module = fmt::format("model.layers.{}.", config.n_layers);
    for (const TensorInfo& tensor : checkpoint.tensors()) {
      if (tensor.name.starts_with(module)) continue;
      double elements = 1;
      for (const std::int64_t extent : tensor.shape) elements *= static_cast<double>(extent);
      stored[part_of_tensor(tensor.name)] += elements;
    }
    const ParameterCount counted = count_parameters(config);
    for (const ModelPart part : all_model_parts) {
      INFO(name_of(part));
      CHECK(counted[part] == stored[part]);
    }
  }
  const std::string r1 = test::source_path("configs/models/deepseek-r1/config.json");
  const ModelConfig config = parse_model_config(read_file(r1), r1);
  CHECK(count_parameters(config).total() == Approx(671e9).epsilon(0.001));
  CHECK(kv_bytes_per_token(config) == 61 * 576 * 4);
}

}  // namespace supernode::moe
