#include "memory_pool/owner/shard.hpp"

#include <algorithm>
#include <atomic>
#include <random>

#include "runtime/core/error.hpp"

namespace supernode::pool::internal {

Shard::Shard(const PoolConfig& config, std::span<std::byte> window, const std::string& directory) : config_(config) {
  const Layout layout = layout_of(config);
  expect(window.size() >= layout.total_bytes, "window smaller than its layout");
  index_ = BucketTable({reinterpret_cast<Bucket*>(window.data()), layout.buckets});
  payload_ = window.subspan(layout.payload_offset, layout.capacity);
  space_ = Allocator(layout.capacity, config.granule.value);
  order_ = EvictionOrder(index_.slots());
  namespaces_ = Namespaces(watermark(), config.namespace_quota.value, config.open_namespaces);
  models_ = ModelDirectory(config.lease);
  if (!directory.empty()) {
    tier_ = std::make_unique<FileTier>(config, directory);
    for (const NamespaceTerms& terms : tier_->namespaces()) restore_namespace(terms);
  }
  std::random_device random;
  while (incarnation_ == 0) incarnation_ = (std::uint64_t{random()} << 32) | random();
  last_ticket_ = incarnation_;
  std::atomic_ref(header().incarnation).store(incarnation_, std::memory_order_release);
}

void Shard::lose() {
  std::atomic_ref(header().incarnation).store(0, std::memory_order_seq_cst);
  for (Slot slot = 0; slot < index_.slots(); ++slot) index_.clear(slot);
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
    case RequestKind::create_namespace:
      reply = create_namespace(request, unpack_name(keys));
      break;
    case RequestKind::delete_namespace:
      reply = delete_namespace(request);
      break;
    case RequestKind::model: {
      const auto answer = models_.step(static_cast<ModelStep>(request.mode), request.key, request.ticket, now);
      reply.status = answer.status;
      reply.key = answer.model;
      break;
    }
    case RequestKind::ping:
      break;
    case RequestKind::stop:
    case RequestKind::discard:
      panic("a shard got a request that is not for shards");
  }
  reply.id = request.id;
  return reply;
}

Reply Shard::allocate(const Request& request, double now) {
  const Name name{request.key, request.name_space};
  Reply reply;
  if (!namespaces_.may_store(name.name_space)) {
    reply.status = Status::no_namespace;
    return reply;
  }
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
    const std::optional<Slot> victim = victim_for(name.name_space);
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
  reply.incarnation = incarnation_;
  namespaces_.reserve(name.name_space, space_.size_at(*offset));
  tickets_.emplace(reply.ticket, Ticket{name, *offset, request.length, now + config_.lease});
  writing_.insert(name);
  return reply;
}

/// Whether a store of `for_whom` may evict what lies in `slot`.
bool Shard::may_evict(Slot slot, NamespaceId for_whom) const {
  const NamespaceId owner = index_.at(slot).name_space;
  if (order_.pinned(slot) || namespaces_.is_whole(owner)) return false;
  return owner == for_whom || !namespaces_.is_promised(owner);
}

/// The block that gives way to a store of `name_space`: the oldest of those to which nothing is promised, else the
/// oldest of its own.
std::optional<Shard::Slot> Shard::victim_for(NamespaceId name_space) const {
  const std::optional<Slot> common = order_.victim(
      [this](NamespaceId other) { return !namespaces_.is_promised(other) && !namespaces_.is_whole(other); });
  if (common || namespaces_.is_whole(name_space)) return common;
  return order_.victim(name_space);
}

/// Quota and watermark before a block of `bytes` is allocated. @returns stored when it may be tried.
Status Shard::make_room(std::uint64_t bytes, NamespaceId name_space) {
  const std::uint64_t need = space_.rounded(bytes);
  const std::uint64_t capacity = space_.capacity();
  if (bytes > capacity || need > capacity) return Status::too_large;
  if (const std::uint64_t quota = namespaces_.limit(name_space); quota > 0) {
    if (need > quota) return Status::quota;
    while (namespaces_.reserved(name_space) + need > quota) {
      const std::optional<Slot> victim = namespaces_.is_whole(name_space) ? std::nullopt : order_.victim(name_space);
      if (!victim) return Status::quota;
      evict(*victim);
    }
  }
  if (space_.reserved() + need > watermark()) {
    const auto round = static_cast<std::uint64_t>(config_.evict_ratio * static_cast<double>(capacity));
    const std::uint64_t before = space_.reserved();
    while (before - space_.reserved() < round || space_.reserved() + need > watermark()) {
      const std::optional<Slot> victim = victim_for(name_space);
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
    reply = later(reply, request.id);
  } else if (waits) {
    reply.status = Status::not_durable;
  }
  return reply;
}

/// A slot for `name`, whatever it may take within its bucket; empty when none of the 16 entries may go.
std::optional<Shard::Slot> Shard::slot_for(const Name& name) {
  if (const std::optional<Slot> slot = index_.place_for(name.key, name.name_space)) return slot;
  std::optional<Slot> oldest;
  const Slot start = index_.bucket_start(name.key);
  for (Slot slot = start; slot < start + entries_per_bucket; ++slot)
    if (may_evict(slot, name.name_space) && (!oldest || order_.last_use(slot) < order_.last_use(*oldest)))
      oldest = slot;
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
  namespaces_.release(name_space, space_.size_at(offset));
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
    reply = later(reply, request.id);
  }
  return reply;
}

/// The same reply, to be given when the file tier has done job number last_tag_.
Reply Shard::later(Reply reply, std::uint64_t request) {
  reply.later = last_tag_;
  reply.id = request;
  waiting_[last_tag_] = {reply, {}, {}};
  return reply;
}

void Shard::touch(NamespaceId name_space, std::span<const Key> keys) {
  for (const Key& key : keys)
    if (const std::optional<Slot> slot = index_.find(key, name_space)) order_.touch(*slot);
}

void Shard::discard(const std::function<bool(const Key&)>& gone) {
  for (Slot slot = 0; slot < index_.slots(); ++slot)
    if (index_.at(slot).state == EntryState::live && gone(index_.at(slot).key)) release(slot);
  if (!tier_) return;
  for (auto& [tag, waiting] : waiting_)
    for (std::size_t i = 0; i < waiting.names.size(); ++i)
      if (gone(waiting.names[i].key)) waiting.places[i] = spoiled;
  tier_->remove_if(gone);
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
  stats.namespaces = namespaces_.created();
  stats.promised = namespaces_.promised();
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
    stats.file_direct = log.direct;
    stats.file_direct_refused = log.direct_refused;
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
  return space_.consistent() && writing_.size() == tickets_.size() && entries == index_.live() &&
         live == counters_.live && live <= reserved && reserved == space_.reserved() &&
         namespaces_.reserved_by_all() == reserved && reserved <= space_.capacity();
}

}  // namespace supernode::pool::internal
