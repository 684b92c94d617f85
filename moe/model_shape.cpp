#include "moe/model_shape.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"

namespace supernode::moe {

emulation::ModelShape shape_of(const ModelConfig& config) {
  if (config.n_routed_experts == 0) throw UsageError("'n_routed_experts' is 0: a modelled deployment needs experts");
  if (config.moe_layer_freq != 1)
    throw UsageError(fmt::format("'moe_layer_freq' is {}: modelled are experts in every layer behind the dense ones",
                                 config.moe_layer_freq));
  emulation::ModelShape shape;
  shape.layers = config.n_layers;
  shape.dense_layers = std::min(config.first_dense_layers, config.n_layers);
  shape.mtp_layers = config.n_mtp_layers;
  shape.hidden = config.hidden_size;
  shape.dense_ffn = config.intermediate_size;
  shape.expert_ffn = config.moe_intermediate_size;
  shape.experts = config.n_routed_experts;
  shape.shared_experts = config.n_shared_experts;
  shape.topk = config.topk;
  shape.heads = config.n_heads;
  shape.q_lora = config.q_lora_rank;
  shape.kv_lora = config.kv_lora_rank;
  shape.rope = config.rope_dim;
  shape.nope = config.nope_dim;
  shape.value = config.v_dim;
  shape.vocabulary = config.vocab_size;
  return shape;
}

emulation::ExpertLayout expert_layout_of(const ModelConfig& config, int dies) {
  if (config.n_routed_experts == 0 || config.n_routed_experts % dies != 0)
    throw UsageError(fmt::format("'n_routed_experts' is {}: a modelled instance of {} dies holds equally many on each",
                                 config.n_routed_experts, dies));
  return {.dies = dies, .shared_dies = 0, .redundant = 0};
}

emulation::ModelShape load_model_shape(const std::string& name) {
  namespace fs = std::filesystem;
  const bool is_folder = name.find('/') != std::string::npos && fs::is_directory(name);
  const std::string path = is_folder ? name + "/config.json" : config_path("models", name, "/config.json");
  std::string text = read_file(path);
  // How the weights are stored changes no size, so a configuration of quantised ones will do.
  if (Json document = parse_json(text, path); document.is_object() && document.erase("quantization_config") > 0)
    text = document.dump();
  const ModelConfig config = parse_model_config(text, path);
  try {
    emulation::ModelShape shape = shape_of(config);
    shape.name = fs::path(path).parent_path().filename().string();
    return shape;
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: {}", path, error.what()));
  }
}

}  // namespace supernode::moe
