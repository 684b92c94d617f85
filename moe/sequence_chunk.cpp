#include "moe/sequence_chunk.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::moe {

TokenShare share_of(int tokens, int ranks, int rank, int home) {
  const int part = (rank - home - 1 + ranks) % ranks;
  const auto begin_of = [&](int i) { return static_cast<int>(std::int64_t{tokens} * i / ranks); };
  return {begin_of(part), begin_of(part + 1) - begin_of(part)};
}

void check_chunk(const ModelConfig& c, const KvCache& shape, const SequenceChunk& chunk) {
  if (chunk.tokens.empty()) throw UsageError("a sequence without tokens: the prompt is empty");
  if (!chunk.cache || !chunk.cache->like(shape)) throw UsageError("a chunk's cache is not of this model");
  const long long end = static_cast<long long>(chunk.cache->length()) + static_cast<long long>(chunk.tokens.size());
  if (end > c.max_positions)
    throw UsageError(
        fmt::format("a sequence of {} tokens; the model holds {} (max_position_embeddings)", end, c.max_positions));
  for (const std::int32_t token : chunk.tokens)
    if (token < 0 || token >= c.vocab_size)
      throw UsageError(fmt::format("token {} is outside the vocabulary of {}", token, c.vocab_size));
}

}  // namespace supernode::moe
