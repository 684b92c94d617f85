#pragma once
// What a step works on.

#include <cstdint>
#include <optional>
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
  /// A chunk of all ranks: each computes a share of its tokens, this one the last share. All ranks pass the same chunk
  /// with caches of the same tokens, behind the chunks of their own. Afterwards each cache holds all tokens; logits are
  /// where their token was computed.
  std::optional<int> split_home = {};
};

/// Tokens [first, first + count) of a range.
struct TokenShare {
  int first = 0, count = 0;
};

/// What `rank` of `ranks` has of `tokens` that all of them share: equal parts in order, the last of which is the home's
/// and has a token if there is any.
TokenShare share_of(int tokens, int ranks, int rank, int home);

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
