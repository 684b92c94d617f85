#include "runtime/serving/workers/prefix_blocks.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {

PrefixBlocks::PrefixBlocks(const WorkerContext& context, std::size_t bytes_per_token)
    : client_(*context.pool, "default"),
      cache_(client_, pool::ContextCacheConfig{
                          context.model_name, context.config->context_block_tokens,
                          bytes_per_token * static_cast<std::size_t>(context.config->context_block_tokens)}) {}

void PrefixBlocks::start(std::span<const std::int32_t> prompt, int granted_tokens, PromptBlocks& blocks) {
  blocks.keys = cache_.keys(prompt);
  if (granted_tokens >= 0) blocks.granted = granted_tokens / cache_.config().block_tokens;
  const int usable = blocks.granted >= 0 ? blocks.granted
                                         : cache_.usable_blocks(cache_.longest_prefix(blocks.keys).blocks,
                                                                static_cast<int>(prompt.size()));
  if (usable == 0) return;
  const std::size_t block_bytes = cache_.config().block_bytes;
  blocks.loaded.resize(block_bytes * static_cast<std::size_t>(usable));
  std::vector<std::span<std::byte>> destinations;
  for (std::size_t b = 0; b < static_cast<std::size_t>(usable); ++b)
    destinations.push_back(std::span(blocks.loaded).subspan(b * block_bytes, block_bytes));
  blocks.load = cache_.start_load(blocks.keys, 0, destinations);
}

void PrefixBlocks::take(PromptBlocks& blocks, EngineState& state) {
  if (!blocks.load) return;
  const std::size_t block_bytes = cache_.config().block_bytes;
  const int block_tokens = cache_.config().block_tokens;
  for (bool ended = false; !ended;) {
    ended = blocks.load->wait(0.001);
    const int come = blocks.load->result().blocks, fresh = come - blocks.taken;
    if (fresh == 0) continue;
    const auto bytes = std::span(blocks.loaded)
                           .subspan(block_bytes * static_cast<std::size_t>(blocks.taken),
                                    block_bytes * static_cast<std::size_t>(fresh));
    state.import_tokens(blocks.taken * block_tokens, fresh * block_tokens, bytes);
    blocks.taken = blocks.stored = come;
  }
  blocks.load.reset();
  blocks.loaded = {};
  if (blocks.taken < blocks.granted)
    throw EnvironmentError(fmt::format("the pool has {} of {} blocks that the model has: pool.capacity is too small",
                                       blocks.taken, blocks.granted));
}

void PrefixBlocks::store(PromptBlocks& blocks, const EngineState& state, double deadline_s) {
  const int block_tokens = cache_.config().block_tokens;
  const int whole = std::min(static_cast<int>(blocks.keys.size()), state.length() / block_tokens);
  for (; blocks.stored < whole; ++blocks.stored) {
    const auto b = static_cast<std::size_t>(blocks.stored);
    std::vector<std::byte> bytes(cache_.config().block_bytes);
    state.export_tokens(blocks.stored * block_tokens, block_tokens, bytes);
    if (blocks.granted >= 0) client_.drain(deadline_s);
    if (!cache_.store(blocks.keys[b], std::move(bytes))) ++dropped_;
  }
}

void PrefixBlocks::remove(std::span<const pool::Key> keys) {
  for (const pool::Key& key : keys) client_.remove(key);
}

void PrefixBlocks::finish(double deadline_s) {
  client_.drain(deadline_s);
  client_.flush_touches();
}

WorkerStatistics PrefixBlocks::statistics() const {
  const pool::ClientStats& stats = client_.stats();
  WorkerStatistics counts;
  counts.lookups = stats.lookups.asked;
  counts.hits = stats.lookups.hits;
  counts.stored_blocks = stats.stores[static_cast<std::size_t>(pool::Status::stored)];
  counts.dropped_blocks = dropped_;
  for (std::size_t reason = 1; reason < pool::miss_reason_count; ++reason)
    if (stats.lookups.by_reason[reason] > 0)
      counts.miss_reasons[std::string(to_string(static_cast<pool::MissReason>(reason)))] =
          stats.lookups.by_reason[reason];
  return counts;
}

}  // namespace supernode::serving
