#include "memory_pool/context_cache.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"

namespace supernode::pool {

ContextCache::ContextCache(Client& client, ContextCacheConfig config) : client_(client), config_(std::move(config)) {
  if (config_.block_tokens < 1) throw UsageError("a context block needs at least one token");
  if (config_.block_bytes == 0) throw UsageError("a context block needs at least one byte");
  root_ = chain_root(client.name_space(), config_.model, config_.block_tokens);
}

std::vector<Key> ContextCache::keys(std::span<const std::int32_t> tokens) const {
  return chain_keys(root_, tokens, config_.block_tokens);
}

int ContextCache::usable_blocks(int hit_blocks, int prompt_tokens) const {
  return pool::usable_blocks(hit_blocks, prompt_tokens, config_.block_tokens);
}

PrefixMatch ContextCache::longest_prefix(std::span<const Key> keys) {
  PrefixMatch match;
  match.each = client_.lookup(keys);
  const auto fits = [this](const Found& found) { return found.hit() && found.length == config_.block_bytes; };
  const auto missing = std::find_if_not(match.each.begin(), match.each.end(), fits);
  match.blocks = static_cast<int>(missing - match.each.begin());
  if (missing != match.each.end()) match.reason = missing->hit() ? MissReason::wrong_size : missing->reason;
  return match;
}

PendingLoad ContextCache::start_load(std::span<const Key> keys, int first_block,
                                     std::span<const std::span<std::byte>> destinations) {
  const auto first = static_cast<std::size_t>(first_block);
  expect(first_block >= 0 && first + destinations.size() <= keys.size(), "load() of blocks beyond the prompt");
  std::vector<GetItem> items(destinations.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    expect(destinations[i].size() == config_.block_bytes, "load() to a destination that is not one block long");
    items[i] = {keys[first + i], destinations[i]};
  }
  return {client_.start_get(items), config_.block_bytes};
}

LoadResult ContextCache::load(std::span<const Key> keys, int first_block,
                              std::span<const std::span<std::byte>> destinations) {
  PendingLoad pending = start_load(keys, first_block, destinations);
  pending.wait();
  return pending.result();
}

LoadResult PendingLoad::result() const {
  LoadResult result;
  for (std::size_t i = 0; i < gets_.size(); ++i) {
    const std::optional<Found> found = gets_.found(i);
    if (!found) break;
    result.reason = found->hit() && found->length != block_bytes_ ? MissReason::wrong_size : found->reason;
    if (result.reason != MissReason::none) break;
    ++result.blocks;
  }
  return result;
}

bool ContextCache::store(const Key& key, std::vector<std::byte> bytes) {
  expect(bytes.size() == config_.block_bytes, "store() of bytes that are not one block long");
  return client_.store_async(key, std::move(bytes));
}

bool ContextCache::store(std::span<const std::int32_t> tokens, int block, std::span<const std::byte> bytes) {
  const auto length = (static_cast<std::size_t>(block) + 1) * static_cast<std::size_t>(config_.block_tokens);
  expect(block >= 0 && length <= tokens.size(), "store() of a block beyond the prompt");
  return store(keys(tokens.first(length)).back(), {bytes.begin(), bytes.end()});
}

}  // namespace supernode::pool
