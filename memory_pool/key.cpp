#include "memory_pool/key.hpp"

#include <algorithm>
#include <string>

#include <xxhash.h>

namespace supernode::pool {
namespace {

Key hash(const void* data, std::size_t bytes) {
  const XXH128_hash_t value = XXH3_128bits(data, bytes);
  return {value.low64, value.high64};
}

}  // namespace

NamespaceId namespace_id(std::string_view name) {
  const std::uint32_t id = XXH32(name.data(), name.size(), 0);
  return id == 0 ? 1 : id;
}

Key key_of(std::string_view text) { return hash(text.data(), text.size()); }

Key chain_root(std::string_view name_space, std::string_view model, int block_tokens) {
  // Lengths in front, so that ("ab", "c") and ("a", "bc") differ.
  const std::string text = std::to_string(name_space.size()) + ':' + std::string(name_space) +
                           std::to_string(model.size()) + ':' + std::string(model) + std::to_string(block_tokens);
  return key_of(text);
}

Key chain_next(const Key& prefix, std::span<const std::int32_t> tokens) {
  // Hash of hashes: no copy of the tokens, and every bit of the prefix counts.
  const XXH128_hash_t block = XXH3_128bits(tokens.data(), tokens.size_bytes());
  const std::uint64_t words[4] = {prefix.low, prefix.high, block.low64, block.high64};
  return hash(words, sizeof words);
}

std::vector<Key> chain_keys(const Key& root, std::span<const std::int32_t> tokens, int block_tokens) {
  const auto length = static_cast<std::size_t>(block_tokens);
  std::vector<Key> keys;
  keys.reserve(tokens.size() / length);
  Key prefix = root;
  for (std::size_t start = 0; start + length <= tokens.size(); start += length)
    keys.push_back(prefix = chain_next(prefix, tokens.subspan(start, length)));
  return keys;
}

int usable_blocks(int hit_blocks, int prompt_tokens, int block_tokens) {
  return std::max(0, std::min(hit_blocks, (prompt_tokens - 1) / block_tokens));
}

}  // namespace supernode::pool
