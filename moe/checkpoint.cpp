#include "moe/checkpoint.hpp"

#include <algorithm>
#include <filesystem>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "moe/checkpoint/hdf5_checkpoint.hpp"
#include "moe/checkpoint/random_weights.hpp"
#include "moe/checkpoint/safetensors_folder.hpp"
#include "moe/checkpoint/stand_in.hpp"
#include "moe/checkpoint/tensor_names.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"

namespace supernode::moe {

Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;

Checkpoint Checkpoint::random(const ModelConfig& config, std::uint64_t seed) {
  Checkpoint checkpoint;
  checkpoint.directory_ = "random weights";
  checkpoint.config_ = config;
  checkpoint.weights_ = std::make_unique<RandomWeights>(seed);
  return checkpoint;
}

Checkpoint::Checkpoint(const std::string& directory) : directory_(directory) {
  if (std::filesystem::is_regular_file(directory)) {
    refuse_stand_in(directory, head_of_file(directory));
    auto file = std::make_unique<Hdf5Checkpoint>(directory);
    config_text_ = file->config_text();
    config_ = parse_model_config(config_text_, directory + ": config");
    weights_ = std::move(file);
    check_tensors();
    return;
  }
  if (!std::filesystem::is_directory(directory)) throw UsageError(fmt::format("model '{}': no such folder", directory));
  const std::string config_path = directory + "/config.json";
  config_text_ = read_file(config_path);
  refuse_stand_in(config_path, config_text_);
  config_ = parse_model_config(config_text_, config_path);
  weights_ = std::make_unique<SafetensorsFolder>(directory);
  check_types();
  check_tensors();
}

Checkpoint::Checkpoint(std::shared_ptr<FileSource> source) : directory_(source->place()) {
  const std::vector<std::string> names = source->names();
  if (names.size() == 1 && !names.front().ends_with(".safetensors") && !names.front().ends_with(".json")) {
    auto file = std::make_unique<Hdf5Checkpoint>(*source, names.front());
    config_text_ = file->config_text();
    config_ = parse_model_config(config_text_, directory_ + ": config");
    weights_ = std::move(file);
    check_tensors();
    return;
  }
  config_text_ = source->read_text("config.json");
  refuse_stand_in(directory_ + "/config.json", config_text_);
  config_ = parse_model_config(config_text_, directory_ + "/config.json");
  weights_ = std::make_unique<SafetensorsFolder>(std::move(source));
  check_types();
  check_tensors();
}

void Checkpoint::check_types() {
  if (config_.quantization_key.empty()) return;
  // Conversions leave the key behind: what counts is how the weights are stored.
  const TensorUse use = use_of_tensors(weights_->names(), config_);
  const std::set<std::string_view> read(use.read.begin(), use.read.end());
  for (const TensorInfo& tensor : weights_->tensors()) {
    if (!has_f32_form(tensor.type) && read.contains(tensor.name))
      throw UsageError(
          fmt::format("{}/config.json: '{}' is given, and tensor '{}' is {}: quantised weights are not supported, "
                      "convert them to BF16 first",
                      directory_, config_.quantization_key, tensor.name, tensor.type));
  }
}

void Checkpoint::check_tensors() {
  const TensorUse use = use_of_tensors(weights_->names(), config_);
  if (!use.foreign.empty()) {
    const std::string& first = *std::min_element(use.foreign.begin(), use.foreign.end());
    throw UsageError(fmt::format(
        "{}: tensor '{}'{} is not part of the model that the configuration describes ({} layers, {} routed and {} "
        "shared "
        "experts){}",
        directory_, first, use.foreign.size() > 1 ? fmt::format(" and {} others", use.foreign.size() - 1) : "",
        config_.n_layers, config_.n_routed_experts, config_.n_shared_experts,
        config_.quantization_key.empty() ? "" : "; quantised weights are not supported, convert them to BF16 first"));
  }
  if (!use.unread.empty())
    unread_note_ = fmt::format("{}: nobody reads tensor '{}'{}", directory_,
                               *std::min_element(use.unread.begin(), use.unread.end()),
                               use.unread.size() > 1 ? fmt::format(" and {} others", use.unread.size() - 1) : "");
  if (!config_.tied_embeddings || !has("lm_head.weight") || !has("model.embed_tokens.weight")) return;
  const std::initializer_list<std::int64_t> shape{config_.vocab_size, config_.hidden_size};
  if (read("lm_head.weight", shape) != read("model.embed_tokens.weight", shape))
    throw UsageError(fmt::format(
        "{}: 'tie_word_embeddings' is true, but 'lm_head.weight' is not 'model.embed_tokens.weight'", directory_));
}

DiskFiles Checkpoint::files_of(const std::string& path) { return DiskFiles(path, {".json", ".safetensors"}); }

bool Checkpoint::has(const std::string& tensor) { return weights_->has(tensor); }

bool Checkpoint::has_mtp() {
  return config_.n_mtp_layers > 0 && has(fmt::format("model.layers.{}.eh_proj.weight", config_.n_layers));
}

std::vector<TensorInfo> Checkpoint::tensors() { return weights_->tensors(); }

std::optional<Int8Matrix> Checkpoint::read_int8(const std::string& tensor, std::initializer_list<std::int64_t> shape) {
  return weights_->read_int8(tensor, std::span(shape.begin(), shape.size()));
}

std::vector<float> Checkpoint::read(const std::string& tensor, std::span<const std::int64_t> shape) {
  return weights_->read(tensor, shape);
}

}  // namespace supernode::moe
