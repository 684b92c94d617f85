#include "moe/checkpoint/safetensors_folder.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"

namespace supernode::moe {
namespace {
constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";
}  // namespace

SafetensorsFolder::SafetensorsFolder(const std::string& directory) : directory_(directory) { find_weights(); }

SafetensorsFolder::SafetensorsFolder(std::shared_ptr<FileSource> source)
    : directory_(source->place()), source_(std::move(source)) {
  find_weights();
}

void SafetensorsFolder::find_weights() {
  if (exists(single_name)) {
    open_shard(single_name);
  } else if (exists(index_name)) {
    shard_names_ = read_index();
  } else {
    throw UsageError(fmt::format("model '{}': neither {} nor {} is there", directory_, single_name, index_name));
  }
}

bool SafetensorsFolder::exists(const std::string& file) const {
  return source_ ? source_->has(file) : std::filesystem::exists(path_of(file));
}

std::map<std::string, std::string> SafetensorsFolder::read_index() const {
  const std::string path = path_of(index_name);
  const Json index = parse_json(source_ ? source_->read_text(index_name) : read_file(path), path);
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

SafetensorsFile& SafetensorsFolder::shard_of(const std::string& tensor) {
  if (shard_names_.empty()) return shards_.begin()->second;
  const auto name = shard_names_.find(tensor);
  if (name == shard_names_.end()) throw UsageError(fmt::format("{}: no tensor '{}'", path_of(index_name), tensor));
  return open_shard(name->second);
}

SafetensorsFile& SafetensorsFolder::open_shard(const std::string& file) {
  const auto open = shards_.find(file);
  if (open != shards_.end()) return open->second;
  return shards_.emplace(file, source_ ? SafetensorsFile(source_, file) : SafetensorsFile(path_of(file))).first->second;
}

bool SafetensorsFolder::has(const std::string& tensor) {
  if (!shard_names_.empty()) return shard_names_.contains(tensor);
  return shards_.begin()->second.find(tensor) != nullptr;
}

std::vector<std::string> SafetensorsFolder::names() {
  std::vector<std::string> result;
  for (const auto& [tensor, file] : shard_names_) result.push_back(tensor);
  if (shard_names_.empty())
    for (const auto& [tensor, view] : shards_.begin()->second.tensors()) result.push_back(tensor);
  return result;
}

std::vector<TensorInfo> SafetensorsFolder::tensors() {
  for (const auto& [tensor, file] : shard_names_) open_shard(file);
  std::vector<TensorInfo> result;
  for (const auto& [file, shard] : shards_)
    for (const auto& [tensor, view] : shard.tensors())
      if (shard_names_.empty() || shard_names_.contains(tensor))
        result.push_back({tensor, std::string(element_name(view.type)), view.shape, view.bytes.size()});
  return result;
}

std::vector<float> SafetensorsFolder::read(const std::string& tensor, std::span<const std::int64_t> shape) {
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
