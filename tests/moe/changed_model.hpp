#pragma once
// Copies of tests/moe/golden/tiny with other configurations and tensors.

#include <cstddef>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "moe/checkpoint/safetensors.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"
#include "tests/support/catch.hpp"

namespace supernode::test {

/// The tiny model's configuration and tensors (f32), to be changed and written. A key set to null is taken out.
struct ChangedModel {
  ChangedModel() : config(Json::parse(read_file(source_path("tests/moe/golden/tiny/config.json")))) {
    const moe::SafetensorsFile file(source_path("tests/moe/golden/tiny/model.safetensors"));
    for (const auto& [name, view] : file.tensors()) {
      Tensor& tensor = tensors[name];
      tensor.shape = view.shape;
      tensor.values.resize(view.size());
      moe::convert_to_f32(view, tensor.values);
    }
  }

  ChangedModel& set(const std::string& key, const Json& value) {
    config[key] = value;
    return *this;
  }
  ChangedModel& add(const std::string& name, std::vector<std::int64_t> shape) {
    std::size_t count = 1;
    for (const std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
    tensors[name] = {std::move(shape), std::vector<float>(count, 0.25f)};
    return *this;
  }

  void write_config(const std::string& folder) const { std::ofstream(folder + "/config.json") << config.dump(1); }
  void write_weights(const std::string& path) const {
    std::vector<moe::TensorToWrite> list;
    for (const auto& [name, tensor] : tensors)
      list.push_back({name, ElementType::f32, tensor.shape, std::as_bytes(std::span(tensor.values))});
    moe::write_safetensors(path, list);
  }
  void write(const std::string& folder) const {
    write_config(folder);
    write_weights(folder + "/model.safetensors");
  }

  struct Tensor {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
  };
  Json config;
  std::map<std::string, Tensor> tensors;
};

}  // namespace supernode::test
