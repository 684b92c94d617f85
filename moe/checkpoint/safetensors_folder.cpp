#include "moe/checkpoint/safetensors_folder.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "moe/checkpoint/stand_in.hpp"
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
    refuse_second_set();
    open_shard(single_name);
    if (!exists(index_name)) return;
    for (const auto& [tensor, file] : read_index())
      if (!has(tensor))
        throw UsageError(fmt::format("{}: tensor '{}' is not in {}, as the index says", directory_, tensor, file));
  } else if (exists(index_name)) {
    shard_names_ = read_index();
  } else {
    throw UsageError(fmt::format("model '{}': neither {} nor {} is there", directory_, single_name, index_name));
  }
}

void SafetensorsFolder::refuse_second_set() const {
  const auto refuse = [&](const std::string& other) {
    throw UsageError(fmt::format("model '{}': {} and {} are two sets of weights: take one of them away", directory_,
                                 single_name, other));
  };
  if (exists(index_name)) {
    for (const auto& [tensor, file] : read_index())
      if (file != single_name) refuse(fmt::format("the files of {} ('{}')", index_name, file));
    return;
  }
  for (const std::string& file : files())
    if (file.starts_with("model-") && file.find("-of-") != std::string::npos && file.ends_with(".safetensors"))
      refuse(fmt::format("'{}'", file));
}

std::vector<std::string> SafetensorsFolder::files() const {
  if (source_) return source_->names();
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, ignored))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool SafetensorsFolder::exists(const std::string& file) const {
  return source_ ? source_->has(file) : std::filesystem::exists(path_of(file));
}

std::map<std::string, std::string> SafetensorsFolder::read_index() const {
  const std::string path = path_of(index_name);
  const std::string text = source_ ? source_->read_text(index_name) : read_file(path);
  refuse_stand_in(path, text);
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

SafetensorsFile& SafetensorsFolder::shard_of(const std::string& tensor) {
  if (shard_names_.empty()) return shards_.begin()->second;
  const auto name = shard_names_.find(tensor);
  if (name == shard_names_.end()) throw UsageError(fmt::format("{}: no tensor '{}'", path_of(index_name), tensor));
  return open_shard(name->second);
}

SafetensorsFile& SafetensorsFolder::open_shard(const std::string& file) {
  const auto open = shards_.find(file);
  if (open != shards_.end()) return open->second;
  SafetensorsFile shard = source_ ? SafetensorsFile(source_, file) : SafetensorsFile(path_of(file));
  if (!shard_names_.empty()) {
    for (const auto& [tensor, view] : shard.tensors()) check_place(tensor, file);
    for (const auto& [tensor, info] : shard.unknown()) check_place(tensor, file);
  }
  return shards_.emplace(file, std::move(shard)).first->second;
}

void SafetensorsFolder::check_place(const std::string& tensor, const std::string& file) const {
  const auto named = shard_names_.find(tensor);
  if (named == shard_names_.end() && !tensor.ends_with("inv_freq"))
    throw UsageError(
        fmt::format("{}: tensor '{}' is in {}, which the index does not say", path_of(index_name), tensor, file));
  if (named != shard_names_.end() && named->second != file)
    throw UsageError(fmt::format("{}: tensor '{}' is in {}, but the index places it in {}", path_of(index_name), tensor,
                                 file, named->second));
}

bool SafetensorsFolder::has(const std::string& tensor) {
  if (!shard_names_.empty()) return shard_names_.contains(tensor);
  const SafetensorsFile& file = shards_.begin()->second;
  return file.find(tensor) != nullptr || file.unknown().contains(tensor);
}

std::vector<std::string> SafetensorsFolder::names() {
  std::vector<std::string> result;
  for (const auto& [tensor, file] : shard_names_) result.push_back(tensor);
  if (!shard_names_.empty()) return result;
  for (const auto& [tensor, view] : shards_.begin()->second.tensors()) result.push_back(tensor);
  for (const auto& [tensor, info] : shards_.begin()->second.unknown()) result.push_back(tensor);
  return result;
}

std::vector<TensorInfo> SafetensorsFolder::tensors() {
  for (const auto& [tensor, file] : shard_names_) open_shard(file);
  std::vector<TensorInfo> result;
  for (const auto& [file, shard] : shards_)
    for (const auto& [tensor, view] : shard.tensors())
      if (shard_names_.empty() || shard_names_.contains(tensor))
        result.push_back({tensor, std::string(element_name(view.type)), view.shape, view.bytes.size()});
  for (const auto& [file, shard] : shards_)
    for (const auto& [tensor, info] : shard.unknown()) result.push_back(info);
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
