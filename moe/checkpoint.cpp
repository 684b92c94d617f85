#include "moe/checkpoint.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"
#include "runtime/core/random.hpp"

namespace supernode::moe {
namespace {
constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";

/// @param path of the index, for messages. @param exists whether a shard is there
std::map<std::string, std::string> read_index(const std::string& path, const std::string& text,
                                              const std::function<bool(const std::string&)>& exists) {
  const Json index = parse_json(text, path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    throw UsageError(fmt::format("{}: 'weight_map' is missing", path));
  std::map<std::string, std::string> names;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string() || file.get_ref<const std::string&>().find('/') != std::string::npos)
      throw UsageError(fmt::format("{}: tensor '{}' names no file of this folder", path, tensor));
    names.emplace(tensor, file.get<std::string>());
  }
  for (const auto& [tensor, file] : names)
    if (!exists(file))
      throw UsageError(fmt::format("{}: shard '{}' (tensor '{}') is not in the folder", path, file, tensor));
  return names;
}

std::vector<float> random_values(const std::string& tensor, std::span<const std::int64_t> shape, std::uint64_t seed) {
  std::size_t count = 1;
  for (const std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
  if (shape.size() < 2) return std::vector<float>(count, tensor.ends_with("bias") ? 0.0f : 1.0f);
  std::uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : tensor) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  const std::uint64_t key = mix64(seed ^ hash);
  const float spread = std::sqrt(3.0f / static_cast<float>(shape.back()));
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = (static_cast<float>(mix64(key + i) >> 40) * 0x1.0p-23f - 1.0f) * spread;
  return values;
}

}  // namespace

Checkpoint Checkpoint::random(const ModelConfig& config, std::uint64_t seed) {
  Checkpoint checkpoint;
  checkpoint.directory_ = "random weights";
  checkpoint.config_ = config;
  checkpoint.seed_ = seed;
  return checkpoint;
}

Checkpoint::Checkpoint(const std::string& directory) : directory_(directory) {
  if (std::filesystem::is_regular_file(directory)) {
    hdf5_.emplace(directory);
    config_text_ = hdf5_->config_text();
    config_ = parse_model_config(config_text_, directory + ": config");
    return;
  }
  if (!std::filesystem::is_directory(directory)) throw UsageError(fmt::format("model '{}': no such folder", directory));
  const std::string config_path = directory + "/config.json";
  config_text_ = read_file(config_path);
  config_ = parse_model_config(config_text_, config_path);
  if (std::filesystem::exists(directory + "/" + single_name)) {
    shards_.emplace(single_name, SafetensorsFile(directory + "/" + single_name));
  } else if (std::filesystem::exists(directory + "/" + index_name)) {
    const std::string path = directory + "/" + index_name;
    shard_names_ = read_index(path, read_file(path),
                              [&](const std::string& file) { return std::filesystem::exists(directory + "/" + file); });
  } else {
    throw UsageError(fmt::format("model '{}': neither {} nor {} is there", directory, single_name, index_name));
  }
}

Checkpoint::Checkpoint(std::shared_ptr<FileSource> source) : directory_(source->place()), source_(std::move(source)) {
  FileSource& files = *source_;
  const std::vector<std::string> names = files.names();
  if (names.size() == 1 && !names.front().ends_with(".safetensors") && !names.front().ends_with(".json")) {
    hdf5_.emplace(files, names.front());
    config_text_ = hdf5_->config_text();
    config_ = parse_model_config(config_text_, directory_ + ": config");
    return;
  }
  config_text_ = files.read_text("config.json");
  config_ = parse_model_config(config_text_, directory_ + "/config.json");
  if (files.has(single_name))
    shards_.emplace(single_name, open_file(single_name));
  else
    shard_names_ = read_index(directory_ + "/" + index_name, files.read_text(index_name),
                              [&](const std::string& file) { return files.has(file); });
}

DiskFiles Checkpoint::files_of(const std::string& path) { return DiskFiles(path, {".json", ".safetensors"}); }

SafetensorsFile Checkpoint::open_file(const std::string& name) const {
  return source_ ? SafetensorsFile(source_, name) : SafetensorsFile(directory_ + "/" + name);
}

SafetensorsFile& Checkpoint::shard_of(const std::string& tensor) {
  if (shard_names_.empty()) return shards_.begin()->second;
  const auto name = shard_names_.find(tensor);
  if (name == shard_names_.end())
    throw UsageError(fmt::format("{}/{}: no tensor '{}'", directory_, index_name, tensor));
  return open_shard(name->second);
}

SafetensorsFile& Checkpoint::open_shard(const std::string& name) {
  auto open = shards_.find(name);
  if (open == shards_.end()) open = shards_.emplace(name, open_file(name)).first;
  return open->second;
}

bool Checkpoint::has(const std::string& tensor) {
  if (seed_) return true;
  if (hdf5_) return hdf5_->has(tensor);
  if (!shard_names_.empty()) return shard_names_.contains(tensor);
  return shards_.begin()->second.find(tensor) != nullptr;
}

bool Checkpoint::has_mtp() {
  return config_.n_mtp_layers > 0 && has(fmt::format("model.layers.{}.eh_proj.weight", config_.n_layers));
}

std::vector<TensorInfo> Checkpoint::tensors() {
  if (hdf5_) return hdf5_->tensors();
  for (const auto& [tensor, shard] : shard_names_) open_shard(shard);
  std::vector<TensorInfo> result;
  for (const auto& [name, shard] : shards_)
    for (const auto& [tensor, view] : shard.tensors())
      if (shard_names_.empty() || shard_names_.contains(tensor))
        result.push_back({tensor, std::string(element_name(view.type)), view.shape, view.bytes.size()});
  return result;
}

std::optional<Int8Matrix> Checkpoint::read_int8(const std::string& tensor, std::initializer_list<std::int64_t> shape) {
  if (!hdf5_) return std::nullopt;
  return hdf5_->read_int8(tensor, std::span(shape.begin(), shape.size()));
}

std::vector<float> Checkpoint::read(const std::string& tensor, std::span<const std::int64_t> shape) {
  if (seed_) return random_values(tensor, shape, *seed_);
  if (hdf5_) return hdf5_->read(tensor, shape);
  const SafetensorsFile& file = shard_of(tensor);
  const TensorView& view = file.at(tensor);
  if (!std::equal(view.shape.begin(), view.shape.end(), shape.begin(), shape.end()))
    throw UsageError(fmt::format("{}: tensor '{}' has shape {}, but the configuration asks for {}", file.path(), tensor,
                                 shape_text(view.shape), shape_text(shape)));
  std::vector<float> values(view.size());
  if (!convert_to_f32(view, values))
    throw UsageError(fmt::format("{}: tensor '{}' is {}; supported: F32, BF16, F16, F64", file.path(), tensor,
                                 element_name(view.type)));
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
    throw UsageError(fmt::format("{}: tensor '{}' holds a value that is not finite", file.path(), tensor));
  return values;
}

}  // namespace supernode::moe
