#include "runtime/serving/coordinator/modelled_pool.hpp"

#include <algorithm>

#include "memory_pool/status.hpp"
#include "runtime/core/error.hpp"

namespace supernode::serving {

std::string_view to_string(BlockMiss reason) {
  switch (reason) {
    case BlockMiss::never_stored:
      return to_string(pool::MissReason::never_stored);
    case BlockMiss::not_yet_visible:
      return "not_yet_visible";
    case BlockMiss::evicted:
      return to_string(pool::MissReason::evicted);
    case BlockMiss::prefix_missing:
      return "prefix_missing";
  }
  panic("a miss without a reason");
}

ModelledPool::ModelledPool(ModelledPoolConfig config)
    : config_(std::move(config)),
      ring_(config_.owners, config_.virtual_nodes),
      use_order_(config_.owners.size()),
      blocks_by_owner_(config_.owners.size()) {
  if (config_.block_tokens < 1) throw UsageError("a context block needs at least one token");
  if (config_.block_bytes < 1) throw UsageError("a context block needs at least one byte");
  if (config_.pieces_per_block < 1) throw UsageError("a context block needs at least one piece");
  stats_.owners.resize(config_.owners.size());
  place_of_.resize(static_cast<std::size_t>(*std::max_element(config_.owners.begin(), config_.owners.end())) + 1, -1);
  for (std::size_t place = 0; place < config_.owners.size(); ++place)
    place_of_[static_cast<std::size_t>(config_.owners[place])] = static_cast<int>(place);
}

int ModelledPool::owner_of(const pool::Key& key) const {
  return place_of_[static_cast<std::size_t>(ring_.home_of(key))];
}

const ModelledPool::Block* ModelledPool::find(const pool::Key& key) const {
  const auto found = blocks_.find(key);
  return found == blocks_.end() ? nullptr : &found->second;
}

std::optional<BlockMiss> ModelledPool::absence(const Block* block) {
  if (block == nullptr) return BlockMiss::never_stored;
  switch (block->state) {
    case State::announced:
    case State::published:
      return BlockMiss::not_yet_visible;
    case State::visible:
      return std::nullopt;
    case State::evicted:
      return BlockMiss::evicted;
  }
  panic("a block of the modelled pool without a state");
}

PrefixHit ModelledPool::lookup(std::span<const pool::Key> keys, int prompt_tokens, RunTime now) {
  expect(keys.size() * static_cast<std::size_t>(config_.block_tokens) <= static_cast<std::size_t>(prompt_tokens),
         "a prompt has more full blocks than tokens");
  advance(now);
  ++stats_.lookups;
  stats_.asked += keys.size();

  PrefixHit hit;
  std::vector<const Block*> prefix;
  for (const pool::Key& key : keys) {
    const Block* block = find(key);
    const std::optional<BlockMiss> miss = absence(block);
    if (!hit.miss) hit.miss = miss;
    if (hit.miss)
      ++stats_.misses[static_cast<std::size_t>(miss.value_or(BlockMiss::prefix_missing))];
    else
      prefix.push_back(block);
  }
  stats_.hits += prefix.size();
  std::for_each(prefix.rbegin(), prefix.rend(), [this](const Block* block) { touch(*block); });

  hit.blocks = pool::usable_blocks(static_cast<int>(prefix.size()), prompt_tokens, config_.block_tokens);
  hit.tokens = hit.blocks * config_.block_tokens;
  stats_.hit_tokens += static_cast<std::uint64_t>(hit.tokens);
  for (std::size_t b = 0; b < static_cast<std::size_t>(hit.blocks); ++b)
    ++blocks_by_owner_[static_cast<std::size_t>(prefix[b]->owner)];
  hit.loads = take_shares();
  return hit;
}

Announced ModelledPool::announce(std::span<const pool::Key> keys, RunTime now) {
  advance(now);
  stats_.offered += keys.size();
  Announced announced;
  if (config_.block_bytes > config_.capacity_bytes) {
    stats_.too_large += keys.size();
    return announced;
  }
  // Last first, as in lookup().
  for (std::size_t i = keys.size(); i-- > 0;) {
    const auto [at, fresh] = blocks_.try_emplace(keys[i]);
    Block& block = at->second;
    if (fresh) block.owner = owner_of(keys[i]);
    if (!fresh && block.state != State::evicted) {
      ++stats_.already_there;
      if (block.state == State::visible) touch(block);
      continue;
    }
    block.state = State::announced;
    ++stats_.announced;
    ++blocks_by_owner_[static_cast<std::size_t>(block.owner)];
    announced.keys.push_back(keys[i]);
  }
  std::reverse(announced.keys.begin(), announced.keys.end());
  announced.writes = take_shares();
  return announced;
}

void ModelledPool::publish(const Announced& announced, RunTime visible_at) {
  expect(visible_at >= now_, "a block of the modelled pool becomes visible in the past");
  if (announced.keys.empty()) return;
  for (const pool::Key& key : announced.keys) {
    const auto found = blocks_.find(key);
    expect(found != blocks_.end() && found->second.state == State::announced,
           "a block is published without an announcement, or twice");
    found->second.state = State::published;
  }
  coming_.emplace(std::pair(visible_at, publications_++), announced.keys);
}

void ModelledPool::advance(RunTime now) {
  expect(now >= now_, "the time of the modelled pool goes back");
  now_ = now;
  while (!coming_.empty() && coming_.begin()->first.first <= now) {
    const auto node = coming_.extract(coming_.begin());
    const std::vector<pool::Key>& keys = node.mapped();
    // Last first, as in lookup().
    std::for_each(keys.rbegin(), keys.rend(), [&](const pool::Key& key) { appear(key, node.key().first); });
  }
}

std::optional<RunTime> ModelledPool::next_change() const {
  if (coming_.empty()) return std::nullopt;
  return coming_.begin()->first.first;
}

void ModelledPool::touch(const Block& block) {
  UseOrder& order = use_order_[static_cast<std::size_t>(block.owner)];
  order.splice(order.end(), order, block.use);
}

void ModelledPool::appear(const pool::Key& key, RunTime at) {
  Block& block = blocks_.at(key);
  ModelledPoolStats::Owner& owner = stats_.owners[static_cast<std::size_t>(block.owner)];
  while (owner.bytes + config_.block_bytes > config_.capacity_bytes) evict_oldest(block.owner, at);
  UseOrder& order = use_order_[static_cast<std::size_t>(block.owner)];
  block.use = order.insert(order.end(), key);
  block.state = State::visible;
  owner.bytes += config_.block_bytes;
  owner.high_watermark = std::max(owner.high_watermark, owner.bytes);
  ++stats_.stored;
  note(PoolChange::Kind::appeared, key, block.owner, at);
}

void ModelledPool::evict_oldest(int owner, RunTime at) {
  UseOrder& order = use_order_[static_cast<std::size_t>(owner)];
  const pool::Key key = order.front();
  order.pop_front();
  blocks_.at(key).state = State::evicted;
  stats_.owners[static_cast<std::size_t>(owner)].bytes -= config_.block_bytes;
  ++stats_.evicted;
  note(PoolChange::Kind::evicted, key, owner, at);
}

void ModelledPool::note(PoolChange::Kind kind, const pool::Key& key, int owner, RunTime at) {
  if (config_.keep_changes) changes_.push_back({kind, key, owner, at});
}

std::vector<OwnerShare> ModelledPool::take_shares() {
  std::vector<OwnerShare> shares;
  for (std::size_t owner = 0; owner < blocks_by_owner_.size(); ++owner) {
    const std::int64_t blocks = std::exchange(blocks_by_owner_[owner], 0);
    if (blocks > 0)
      shares.push_back({static_cast<int>(owner), blocks * config_.block_bytes, blocks * config_.pieces_per_block});
  }
  return shares;
}

}  // namespace supernode::serving
