#include "memory_pool/internal/shard.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"

namespace supernode::pool::internal {

Shard::Shard(const PoolConfig& config, std::span<std::byte> window, const std::string& directory) : config_(config) {
  const Layout layout = layout_of(config);
  expect(window.size() >= layout.total_bytes, "window smaller than its layout");
  index_ = BucketTable({reinterpret_cast<Bucket*>(window.data()), layout.buckets});
  payload_ = window.subspan(layout.payload_offset, layout.capacity);
  space_ = Allocator(layout.capacity, config.granule.value);
  order_ = EvictionOrder(index_.slots());
  if (!directory.empty()) tier_ = std::make_unique<FileTier>(config, directory);
}

Reply Shard::serve(const Request& request, std::span<const Key> keys, double now) {
  ++counters_.requests;
  Reply reply;
  switch (request.kind) {
    case RequestKind::allocate:
      reply = allocate(request, now);
      break;
    case RequestKind::publish:
      reply = publish(request, false);
      break;
    case RequestKind::abandon:
      abandon(request.ticket);
      break;
    case RequestKind::remove:
      reply = remove(request);
      break;
    case RequestKind::touch:
      touch(request.name_space, keys);
      break;
    case RequestKind::stats:
      reply.stats = stats();
      break;
    case RequestKind::promote:
      reply = promote(request, keys);
      break;
    case RequestKind::stop:
      panic("a shard was asked to stop");
  }
  reply.id = request.id;
  return reply;
}

Reply Shard::allocate(const Request& request, double now) {
  const Name name{request.key, request.name_space};
  Reply reply;
  const std::optional<Slot> there = index_.find(name.key, name.name_space);
  if (there && request.mode == static_cast<std::uint32_t>(PutMode::keep)) {
    order_.touch(*there);
    reply.status = Status::already_there;
    return reply;
  }
  if (writing_.contains(name)) {
    reply.status = Status::already_there;
    return reply;
  }
  reply.status = make_room(request.length, name.name_space);
  if (reply.status != Status::stored) return reply;
  std::optional<std::uint64_t> offset = space_.allocate(request.length);
  while (!offset) {
    // Above the watermark because of pins and writers, or free only in pieces that are too small.
    const std::optional<Slot> victim = order_.victim();
    if (!victim) break;
    evict(*victim);
    offset = space_.allocate(request.length);
  }
  if (!offset) {
    reply.status = Status::full;
    return reply;
  }
  reply.offset = *offset;
  reply.ticket = ++last_ticket_;
  reserved_by_[name.name_space] += space_.size_at(*offset);
  tickets_.emplace(reply.ticket, Ticket{name, *offset, request.length, now + config_.lease});
  writing_.insert(name);
  return reply;
}

/// Quota and watermark before a block of `bytes` is allocated. @returns stored when it may be tried.
Status Shard::make_room(std::uint64_t bytes, NamespaceId name_space) {
  const std::uint64_t need = space_.rounded(bytes);
  const std::uint64_t capacity = space_.capacity();
  if (bytes > capacity || need > capacity) return Status::too_large;
  if (const std::uint64_t quota = config_.namespace_quota.value; quota > 0) {
    if (need > quota) return Status::quota;
    while (reserved_by_[name_space] + need > quota) {
      const std::optional<Slot> victim = order_.victim(name_space);
      if (!victim) return Status::quota;
      evict(*victim);
    }
  }
  const auto limit = static_cast<std::uint64_t>(config_.evict_above * static_cast<double>(capacity));
  if (space_.reserved() + need > limit) {
    const auto round = static_cast<std::uint64_t>(config_.evict_ratio * static_cast<double>(capacity));
    const std::uint64_t before = space_.reserved();
    while (before - space_.reserved() < round || space_.reserved() + need > limit) {
      const std::optional<Slot> victim = order_.victim();
      if (!victim) break;
      evict(*victim);
    }
  }
  return Status::stored;
}

Reply Shard::publish(const Request& request, bool promoted) {
  Reply reply;
  const auto found = tickets_.find(request.ticket);
  if (found == tickets_.end()) {
    reply.status = Status::not_there;
    return reply;
  }
  const Ticket ticket = found->second;
  if (request.verify != 0 && checksum_of(payload_.subspan(ticket.offset, ticket.length)) != request.checksum) {
    reply.again = 1;
    return reply;
  }
  const std::optional<Slot> slot = slot_for(ticket.name);
  if (!slot) {
    free_block(ticket.offset, ticket.name.name_space);
    close(request.ticket);
    reply.status = Status::full;
    return reply;
  }
  const Entry before = index_.at(*slot);
  Entry entry;
  entry.key = ticket.name.key;
  entry.name_space = ticket.name.name_space;
  entry.offset = ticket.offset;
  entry.length = ticket.length;
  entry.checksum = request.checksum;
  reply.version = index_.write(*slot, entry);
  if (before.state == EntryState::live) {
    counters_.live -= before.length;
    free_block(before.offset, before.name_space);
    order_.touch(*slot);
  } else {
    order_.insert(*slot, ticket.name.name_space);
  }
  counters_.live += ticket.length;
  close(request.ticket);
  reply.status = Status::stored;
  if (promoted) {
    ++counters_.promotions;
    return reply;
  }
  ++counters_.stored;
  if (!tier_) return reply;
  spoil(ticket.name);
  const bool waits = config_.directory_sync != "none";
  const bool taken =
      tier_->store(++last_tag_, ticket.name, payload_.subspan(ticket.offset, ticket.length), request.checksum);
  if (taken && waits) {
    reply.later = last_tag_;
    reply.id = request.id;
    waiting_[last_tag_] = {reply, {}, {}};
  } else if (waits) {
    reply.status = Status::not_durable;
  }
  return reply;
}

Reply Shard::promote(const Request& request, std::span<const Key> keys) {
  Waiting waiting;
  Reply& reply = waiting.reply;
  reply.id = request.id;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (index_.find(keys[i], request.name_space)) {
      reply.found |= std::uint64_t{1} << i;
    } else if (tier_) {
      waiting.names.push_back({keys[i], request.name_space});
      waiting.places.push_back(i);
    }
  }
  if (waiting.names.empty()) return reply;
  reply.later = ++last_tag_;
  tier_->load(last_tag_, waiting.names);
  return (waiting_[last_tag_] = std::move(waiting)).reply;
}

/// A block from the file tier becomes live. False when there is no room.
bool Shard::admit(const Name& name, const RecordLog::Payload& payload, double now) {
  Request request;
  request.key = name.key;
  request.name_space = name.name_space;
  request.length = payload.bytes.size();
  const Reply block = allocate(request, now);
  if (block.status == Status::already_there) return index_.find(name.key, name.name_space).has_value();
  if (block.status != Status::stored) return false;
  std::copy(payload.bytes.begin(), payload.bytes.end(), payload_.begin() + static_cast<long>(block.offset));
  request.ticket = block.ticket;
  request.checksum = payload.checksum;
  return publish(request, true).status == Status::stored;
}

/// `name` gets another version, or none: what is being read from the file is out of date.
void Shard::spoil(const Name& name) {
  for (auto& [tag, waiting] : waiting_)
    for (std::size_t i = 0; i < waiting.names.size(); ++i)
      if (waiting.names[i] == name) waiting.places[i] = spoiled;
}

std::vector<Reply> Shard::settle(double now) {
  std::vector<Reply> replies;
  if (!tier_) return replies;
  for (const FileTier::Done& done : tier_->poll()) {
    const auto found = waiting_.find(done.tag);
    if (found == waiting_.end()) continue;
    Waiting waiting = std::move(found->second);
    waiting_.erase(found);
    if (waiting.reply.status == Status::stored && waiting.names.empty() && !done.good)
      waiting.reply.status = Status::not_durable;
    if (waiting.reply.status == Status::not_there && done.good) waiting.reply.status = Status::removed;
    for (std::size_t i = 0; i < waiting.names.size(); ++i) {
      const std::size_t place = waiting.places[i];
      if (place == spoiled || !done.loaded[i]) continue;
      if (admit(waiting.names[i], *done.loaded[i], now)) waiting.reply.found |= std::uint64_t{1} << place;
    }
    replies.push_back(waiting.reply);
  }
  return replies;
}

/// A slot for `name`, whatever it takes within its bucket; empty when all 16 entries are pinned.
std::optional<Shard::Slot> Shard::slot_for(const Name& name) {
  if (const std::optional<Slot> slot = index_.place_for(name.key, name.name_space)) return slot;
  std::optional<Slot> oldest;
  const Slot start = index_.bucket_start(name.key);
  for (Slot slot = start; slot < start + entries_per_bucket; ++slot)
    if (!order_.pinned(slot) && (!oldest || order_.last_use(slot) < order_.last_use(*oldest))) oldest = slot;
  if (!oldest) return std::nullopt;
  evict(*oldest);
  ++counters_.conflicts;
  return oldest;
}

void Shard::evict(Slot slot) {
  ++counters_.evictions;
  counters_.evicted_bytes += index_.at(slot).length;
  const Entry entry = index_.at(slot);
  index_.bury(slot);
  counters_.live -= entry.length;
  order_.erase(slot);
  free_block(entry.offset, entry.name_space);
}

void Shard::release(Slot slot) {
  const Entry entry = index_.at(slot);
  index_.clear(slot);
  counters_.live -= entry.length;
  order_.erase(slot);
  free_block(entry.offset, entry.name_space);
}

void Shard::free_block(std::uint64_t offset, NamespaceId name_space) {
  const auto account = reserved_by_.find(name_space);
  account->second -= space_.size_at(offset);
  if (account->second == 0) reserved_by_.erase(account);
  space_.free(offset);
}

void Shard::close(std::uint64_t ticket) {
  const auto found = tickets_.find(ticket);
  writing_.erase(found->second.name);
  tickets_.erase(found);
}

void Shard::abandon(std::uint64_t ticket) {
  const auto found = tickets_.find(ticket);
  if (found == tickets_.end()) return;
  free_block(found->second.offset, found->second.name.name_space);
  close(ticket);
}

Reply Shard::remove(const Request& request) {
  Reply reply;
  const std::optional<Slot> slot = index_.find(request.key, request.name_space);
  reply.status = slot ? Status::removed : Status::not_there;
  if (slot) {
    release(*slot);
    ++counters_.removed;
  }
  if (tier_) {
    const Name name{request.key, request.name_space};
    spoil(name);
    tier_->remove(++last_tag_, name);
    reply.later = last_tag_;
    reply.id = request.id;
    waiting_[last_tag_] = {reply, {}, {}};
  }
  return reply;
}

void Shard::touch(NamespaceId name_space, std::span<const Key> keys) {
  for (const Key& key : keys)
    if (const std::optional<Slot> slot = index_.find(key, name_space)) order_.touch(*slot);
}

void Shard::expire(double now) {
  if (now < next_expiry_) return;
  next_expiry_ = now + config_.lease / 8;
  for (auto it = tickets_.begin(); it != tickets_.end();) {
    const auto& [number, ticket] = *it++;
    if (ticket.expires > now) continue;
    ++counters_.expired;
    abandon(number);
  }
}

OwnerStats Shard::stats() const {
  OwnerStats stats = counters_;
  stats.capacity = space_.capacity();
  stats.reserved = space_.reserved();
  stats.high_watermark = space_.high_watermark();
  stats.entries = index_.live();
  stats.tombstones = index_.tombstones();
  stats.writing = tickets_.size();
  if (tier_) {
    const LogStats log = tier_->stats();
    stats.file_records = log.records;
    stats.file_bytes = log.file_bytes;
    stats.file_recovered = log.recovered;
    stats.file_cut = log.cut;
    stats.file_corrupt = log.corrupt;
    stats.file_foreign = log.foreign;
    stats.file_forgotten = log.forgotten;
    stats.file_cleanings = log.cleanings;
    stats.file_errors = log.write_errors;
  }
  return stats;
}

bool Shard::consistent() const {
  std::uint64_t live = 0, reserved = 0, entries = 0;
  for (Slot slot = 0; slot < index_.slots(); ++slot) {
    const Entry& entry = index_.at(slot);
    const bool is_live = entry.state == EntryState::live;
    if (is_live != order_.contains(slot)) return false;
    if (!is_live) continue;
    if (entry.sum != sum_of(entry) || index_.find(entry.key, entry.name_space) != slot) return false;
    ++entries;
    live += entry.length;
    reserved += space_.size_at(entry.offset);
  }
  for (const auto& [number, ticket] : tickets_) {
    if (!writing_.contains(ticket.name)) return false;
    reserved += space_.size_at(ticket.offset);
  }
  std::uint64_t accounted = 0;
  for (const auto& [name_space, bytes] : reserved_by_) accounted += bytes;
  return space_.consistent() && writing_.size() == tickets_.size() && entries == index_.live() &&
         live == counters_.live && live <= reserved && reserved == space_.reserved() && accounted == reserved &&
         reserved <= space_.capacity();
}

}  // namespace supernode::pool::internal
