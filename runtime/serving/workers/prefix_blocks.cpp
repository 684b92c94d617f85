#include "runtime/serving/workers/prefix_blocks.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {

PrefixBlocks::PrefixBlocks(const WorkerContext& context, const StepEngine& engine)
    : client_(*context.pool, "default"),
      cache_(client_, pool::ContextCacheConfig{context.model_name, context.config->context_block_tokens,
                                               engine.state_bytes_per_token() *
                                                       static_cast<std::size_t>(context.config->context_block_tokens) +
                                                   engine.state_end_bytes()}),
      end_bytes_(engine.state_end_bytes()) {}

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
    const int come = blocks.load->result().blocks;
    for (; blocks.taken < come; ++blocks.taken) {
      const auto block =
          std::span(blocks.loaded).subspan(block_bytes * static_cast<std::size_t>(blocks.taken), block_bytes);
      state.import_tokens(blocks.taken * block_tokens, block_tokens, block.first(block_bytes - end_bytes_));
      state.import_end(block.last(end_bytes_));
      loaded_bytes_ += block.size();
    }
    blocks.stored = blocks.taken;
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
    if (blocks.granted >= 0) client_.drain(deadline_s);
    if (!client_.wait_for_room(cache_.config().block_bytes, deadline_s)) {
      ++no_room_;
      continue;
    }
    std::vector<std::byte> bytes(cache_.config().block_bytes);
    const int first = blocks.stored * block_tokens;
    state.export_tokens(first, block_tokens, std::span(bytes).first(bytes.size() - end_bytes_));
    state.export_end(first + block_tokens, std::span(bytes).last(end_bytes_));
    cache_.store(blocks.keys[static_cast<std::size_t>(blocks.stored)], std::move(bytes));
  }
}

void PrefixBlocks::finish(double deadline_s) {
  client_.drain(deadline_s);
  client_.flush_touches();
}

std::map<std::string, std::uint64_t> PrefixBlocks::take_misses() {
  std::map<std::string, std::uint64_t> misses;
  const auto& so_far = client_.stats().lookups.by_reason;
  for (std::size_t reason = 1; reason < pool::miss_reason_count; ++reason)
    if (const std::uint64_t before = std::exchange(told_[reason], so_far[reason]); so_far[reason] > before)
      misses[std::string(to_string(static_cast<pool::MissReason>(reason)))] = so_far[reason] - before;
  return misses;
}

WorkerStatistics PrefixBlocks::statistics() const {
  const pool::ClientStats& stats = client_.stats();
  WorkerStatistics counts;
  counts.lookups = stats.lookups.asked;
  counts.hits = stats.lookups.hits;
  counts.payload.pool_load.bytes = loaded_bytes_;
  counts.payload.pool_store.bytes = stats.bytes_written;
  const auto drop = [&counts](std::string_view reason, std::uint64_t blocks) {
    if (blocks == 0) return;
    counts.dropped_blocks += blocks;
    counts.drop_reasons[std::string(reason)] += blocks;
  };
  for (std::size_t i = 0; i < pool::status_count; ++i) {
    const auto status = static_cast<pool::Status>(i);
    if (status == pool::Status::stored || status == pool::Status::not_durable)
      counts.stored_blocks += stats.stores[i];
    else if (status == pool::Status::already_there)
      counts.known_blocks = stats.stores[i];
    else
      drop(to_string(status), stats.stores[i]);
  }
  drop("queue_full", no_room_);
  drop("unfinished", client_.queued());
  for (std::size_t reason = 1; reason < pool::miss_reason_count; ++reason)
    if (stats.lookups.by_reason[reason] > 0)
      counts.miss_reasons[std::string(to_string(static_cast<pool::MissReason>(reason)))] =
          stats.lookups.by_reason[reason];
  return counts;
}

}  // namespace supernode::serving
