#pragma once
// Names of blocks: 128 bits, so that equal keys mean equal content for every practical purpose.

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace supernode::pool {

/// An XXH3-128 hash, or any 128 bits the caller chooses for keys that name content of its own.
struct Key {
  std::uint64_t low = 0, high = 0;
  friend constexpr auto operator<=>(const Key&, const Key&) = default;
};

/// A tenant's number: the hash of its name, never 0.
using NamespaceId = std::uint32_t;
NamespaceId namespace_id(std::string_view name);

/// The key of arbitrary text. Placement and collisions as XXH3-128.
Key key_of(std::string_view text);

/// Where a chain of token blocks starts: two tenants, two models, or two block lengths never share a block.
Key chain_root(std::string_view name_space, std::string_view model, int block_tokens);

/// The key of a block that follows `prefix`: XXH3-128 over (prefix, tokens). O(tokens).
Key chain_next(const Key& prefix, std::span<const std::int32_t> tokens);

/// Keys of all *full* blocks of `tokens`, in order: element i stands for tokens [0, (i + 1) * block_tokens), so equal
/// keys mean equal prefixes. A tail shorter than a block has no key. O(tokens).
std::vector<Key> chain_keys(const Key& root, std::span<const std::int32_t> tokens, int block_tokens);

/// Of `hit_blocks` leading blocks that are there, those that a prompt may use: a prefill must compute at least one token
/// to have logits. min(hit_blocks, (prompt_tokens - 1) / block_tokens), and 0 for an empty prompt.
int usable_blocks(int hit_blocks, int prompt_tokens, int block_tokens);

}  // namespace supernode::pool

template <>
struct std::hash<supernode::pool::Key> {
  std::size_t operator()(const supernode::pool::Key& key) const noexcept { return key.low ^ (key.high * 3); }
};
