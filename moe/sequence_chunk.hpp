#pragma once
// What a step works on.

#include <cstdint>
#include <span>

#include "moe/kv_cache.hpp"
#include "moe/model_config.hpp"

namespace supernode::moe {

/// Consecutive tokens of one sequence. They start at position cache->length(); afterwards the cache holds them too.
/// Prefill is one chunk or several at growing offsets, decode a chunk of one token.
struct SequenceChunk {
  KvCache* cache = nullptr;              ///< from make_cache(); at most once in a step
  std::span<const std::int32_t> tokens;  ///< at least one
  bool all_logits = false;               ///< logits at every position, not only the last
};

/// Work for the MTP module: positions cache->length() and on of one sequence. Row i of `hidden` is what forward() gave
/// for position p, tokens[i] the token at p + 1; the guess is for p + 2.
struct DraftChunk {
  KvCache* cache = nullptr;              ///< from make_draft_cache(); at most once in a step
  std::span<const float> hidden;         ///< [tokens, hidden_size]
  std::span<const std::int32_t> tokens;  ///< at least one
  bool all_logits = false;               ///< guesses at every position, not only the last
};

/// @param shape any cache of those that the chunk's must be one of: make_cache() or make_draft_cache()
/// @throws UsageError unless the chunk may be computed: see Transformer::forward. Local.
void check_chunk(const ModelConfig& config, const KvCache& shape, const SequenceChunk& chunk);

}  // namespace supernode::moe
