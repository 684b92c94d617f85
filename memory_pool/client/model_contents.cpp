#include "memory_pool/client/model_contents.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/core/json.hpp"

namespace supernode::pool::internal {

Key key_of_model(const ModelId& id) {
  return key_of(fmt::format("model {}:{}{}", id.model.size(), id.model, id.version));
}

std::string namespace_of_model(const Key& model) { return fmt::format("model-{:016x}{:016x}", model.high, model.low); }

Key key_of_contents(const Key& model) { return key_of(fmt::format("{} contents", namespace_of_model(model))); }

Key ModelContents::block(const std::string& file, std::uint64_t number) const {
  return key_of(fmt::format("{} {} {} {}", namespace_of_model(model), block_bytes, number, file));
}

std::uint64_t ModelContents::blocks(const std::string& file) const {
  return (files.at(file) + block_bytes - 1) / block_bytes;
}

std::uint64_t ModelContents::bytes_of_block(const std::string& file, std::uint64_t number) const {
  return std::min(block_bytes, files.at(file) - number * block_bytes);
}

std::uint64_t ModelContents::total_bytes() const {
  std::uint64_t sum = 0;
  for (const auto& [name, bytes] : files) sum += bytes;
  return sum;
}

std::vector<Key> ModelContents::all_blocks() const {
  std::vector<Key> keys;
  for (const auto& [file, bytes] : files)
    for (std::uint64_t number = 0; number < blocks(file); ++number) keys.push_back(block(file, number));
  return keys;
}

std::vector<std::byte> ModelContents::text() const {
  const std::string json = Json{{"block_bytes", block_bytes}, {"files", files}}.dump();
  const auto bytes = std::as_bytes(std::span(json));
  return {bytes.begin(), bytes.end()};
}

ModelContents ModelContents::parse(const Key& model, std::span<const std::byte> text) {
  const Json json = Json::parse(std::string(reinterpret_cast<const char*>(text.data()), text.size()));
  return {model, json["block_bytes"].get<std::uint64_t>(), json["files"].get<std::map<std::string, std::uint64_t>>()};
}

}  // namespace supernode::pool::internal
