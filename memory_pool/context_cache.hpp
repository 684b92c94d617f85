#pragma once
// The context cache: KV of prompt prefixes, in blocks of tokens. A block's key chains over all tokens before it, so a
// key found means that the whole prefix up to it is the same.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "memory_pool/client.hpp"

namespace supernode::pool {

/// Equal for all that share blocks.
struct ContextCacheConfig {
  std::string model;            ///< model and version, data type too: whatever makes KV bytes differ
  int block_tokens = 128;       ///< tokens a block, 128-512 in production; at least 1
  std::size_t block_bytes = 0;  ///< bytes of a block's KV, all layers
};

/// What longest_prefix() found.
struct PrefixMatch {
  int blocks = 0;                        ///< leading blocks that are there
  MissReason reason = MissReason::none;  ///< why block number `blocks` is missing; none when all were there
  std::vector<Found> each;               ///< of all full blocks, [keys.size()]
};

/// What load() did.
struct LoadResult {
  int blocks = 0;                        ///< leading blocks loaded and verified, counted from first_block
  MissReason reason = MissReason::none;  ///< why the next one failed; none when all came
};

/// Blocks of a prefix under way, begun by ContextCache::start_load(); as PendingGet, whose rules hold.
class PendingLoad {
 public:
  bool test() { return gets_.test(); }
  bool wait(double seconds) { return gets_.wait(seconds); }
  void wait() { gets_.wait(); }
  /// Leading blocks that have come by now, and why the next one failed; none while it is under way.
  LoadResult result() const;

 private:
  friend class ContextCache;
  PendingLoad(PendingGet gets, std::size_t block_bytes) : gets_(std::move(gets)), block_bytes_(block_bytes) {}
  PendingGet gets_;
  std::size_t block_bytes_;
};

/// Not collective. The client must outlive it.
///
/// A prefill must compute at least one token to have logits, so the caller caps the prefix that it uses by
/// usable_blocks().
class ContextCache {
 public:
  /// @throws UsageError when block_tokens < 1 or block_bytes is 0.
  ContextCache(Client& client, ContextCacheConfig config);

  const ContextCacheConfig& config() const { return config_; }
  Client& client() { return client_; }

  /// Keys of the full blocks of `tokens`; compute once per prompt, the calls below take them.
  std::vector<Key> keys(std::span<const std::int32_t> tokens) const;
  /// Blocks of a prefix hit that a prompt of `prompt_tokens` may use: pool::usable_blocks (key.hpp).
  int usable_blocks(int hit_blocks, int prompt_tokens) const;

  /// Leading blocks that are there now: all blocks are asked for in one batched round.
  PrefixMatch longest_prefix(std::span<const Key> keys);
  PrefixMatch longest_prefix(std::span<const std::int32_t> tokens) { return longest_prefix(keys(tokens)); }

  /// Loads blocks first_block .. first_block + destinations.size() - 1 in one batched read, each to its destination of
  /// block_bytes. Blocks may have gone since the lookup: only the leading `blocks` of the result are valid.
  LoadResult load(std::span<const Key> keys, int first_block, std::span<const std::span<std::byte>> destinations);
  LoadResult load(std::span<const std::int32_t> tokens, int first_block,
                  std::span<const std::span<std::byte>> destinations) {
    return load(keys(tokens), first_block, destinations);
  }
  /// Begins the same and returns at once.
  PendingLoad start_load(std::span<const Key> keys, int first_block,
                         std::span<const std::span<std::byte>> destinations);

  /// Queues the KV of one block, block_bytes long, off the caller's path (Client::store_async); a block that is there
  /// already costs one small message. @returns false when the queue is full and the block was dropped.
  bool store(const Key& key, std::vector<std::byte> bytes);
  bool store(std::span<const std::int32_t> tokens, int block, std::span<const std::byte> bytes);

 private:
  Client& client_;
  ContextCacheConfig config_;
  Key root_;
};

}  // namespace supernode::pool
