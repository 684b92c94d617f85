#include "moe/checkpoint.hpp"

#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "moe/checkpoint/hdf5_checkpoint.hpp"
#include "moe/checkpoint/random_weights.hpp"
#include "moe/checkpoint/safetensors_folder.hpp"
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
    auto file = std::make_unique<Hdf5Checkpoint>(directory);
    config_text_ = file->config_text();
    config_ = parse_model_config(config_text_, directory + ": config");
    weights_ = std::move(file);
    return;
  }
  if (!std::filesystem::is_directory(directory)) throw UsageError(fmt::format("model '{}': no such folder", directory));
  const std::string config_path = directory + "/config.json";
  config_text_ = read_file(config_path);
  config_ = parse_model_config(config_text_, config_path);
  weights_ = std::make_unique<SafetensorsFolder>(directory);
}

Checkpoint::Checkpoint(std::shared_ptr<FileSource> source) : directory_(source->place()) {
  const std::vector<std::string> names = source->names();
  if (names.size() == 1 && !names.front().ends_with(".safetensors") && !names.front().ends_with(".json")) {
    auto file = std::make_unique<Hdf5Checkpoint>(*source, names.front());
    config_text_ = file->config_text();
    config_ = parse_model_config(config_text_, directory_ + ": config");
    weights_ = std::move(file);
    return;
  }
  config_text_ = source->read_text("config.json");
  config_ = parse_model_config(config_text_, directory_ + "/config.json");
  weights_ = std::make_unique<SafetensorsFolder>(std::move(source));
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
