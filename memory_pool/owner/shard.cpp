#include "memory_pool/owner/shard.hpp"

#include <algorithm>
#include <atomic>

#include "runtime/core/error.hpp"

namespace supernode::pool::internal {

Shard::Shard(const PoolConfig& config, std::span<std::byte> window, std::uint64_t incarnation, FileTier* tier)
    : config_(config), incarnation_(incarnation), last_ticket_(incarnation), tier_(tier) {
  const Layout layout = layout_of(config);
  expect(window.size() >= layout.total_bytes, "window smaller than its layout");
  expect(incarnation != 0, "an incarnation of 0 means lost memory");
  index_ = BucketTable({reinterpret_cast<Bucket*>(window.data()), layout.buckets});
  payload_ = window.subspan(layout.payload_offset, layout.capacity);
  space_ = Allocator(layout.capacity, config.granule.value);
  order_ = EvictionOrder(index_.slots());
  namespaces_ =
      Namespaces({.room = watermark(), .common_limit = config.namespace_quota.value, .open = config.open_namespaces});
  models_ = ModelDirectory(config.lease);
  if (tier_)
    for (const NamespaceTerms& terms : tier_->namespaces()) restore_namespace(terms);
  std::atomic_ref(header().incarnation).store(incarnation_, std::memory_order_release);
}

void Shard::lose_memory() {
  std::atomic_ref(header().incarnation).store(0, std::memory_order_seq_cst);
  for (Slot slot = 0; slot < index_.slots(); ++slot) index_.clear(slot);
}

Served Shard::answer(const Abandon& request, double) {
  abandon(request.ticket);
  return {};
}

Served Shard::answer(const Stats&, double) { return Reply(StatsReply{stats()}); }

Served Shard::answer(const Ping&, double) { return Reply(Done{}); }

Served Shard::answer(const ModelRequest& request, double now) {
  const ModelDirectory::Answer answer = models_.step(request.step, request.model, request.claimant, now);
  return Reply(ModelReply{answer.status, answer.model});
}

Allocated Shard::allocate(const Allocate& request, double now) {
  const Name name{request.key, request.name_space};
  Allocated reply;
  if (!namespaces_.may_store(name.name_space)) {
    reply.status = Status::no_namespace;
    return reply;
  }
  const std::optional<Slot> there = index_.find(name.key, name.name_space);
  if (there && request.mode == PutMode::keep) {
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

/// The block that is evicted for a store of `name_space`: the oldest of those to which nothing is promised, else the
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

Served Shard::answer(const Publish& request, double) {
  const auto found = tickets_.find(request.ticket);
  if (found == tickets_.end()) return Reply(Published{Status::not_there});
  const Ticket ticket = found->second;
  const std::span<std::byte> payload = payload_.subspan(ticket.offset, ticket.length);
  if (request.verification == Verification::checksum && checksum_of(payload) != request.checksum)
    return Reply(Published{Status::stored, Arrival::incomplete});
  Published reply = make_live(request.ticket, request.checksum);
  if (reply.status != Status::stored) return Reply(reply);
  ++counters_.stored;
  if (!tier_) return Reply(reply);
  // A version that is being brought back from the files is older than this one.
  invalidate([&](const Name& name) { return name == ticket.name; });
  const bool taken = tier_->store(++last_tag_, ticket.name, payload, request.checksum);
  if (config_.directory_sync == DirectorySync::none) return Reply(reply);
  if (taken) return defer(reply);
  reply.status = Status::not_durable;
  return Reply(reply);
}

/// The block of a ticket becomes an entry that readers see. @returns stored, or full when its bucket has no place.
Published Shard::make_live(std::uint64_t number, std::uint64_t checksum) {
  const Ticket ticket = tickets_.at(number);
  const std::optional<Slot> slot = slot_for(ticket.name);
  if (!slot) {
    abandon(number);
    return {Status::full};
  }
  const Entry before = index_.at(*slot);
  Entry entry;
  entry.key = ticket.name.key;
  entry.name_space = ticket.name.name_space;
  entry.offset = ticket.offset;
  entry.length = ticket.length;
  entry.checksum = checksum;
  const std::uint64_t version = index_.write(*slot, entry);
  if (before.state == EntryState::live) {
    counters_.live -= before.length;
    free_block(before.offset, before.name_space);
    order_.touch(*slot);
  } else {
    order_.insert(*slot, ticket.name.name_space);
  }
  counters_.live += ticket.length;
  close(number);
  return {Status::stored, Arrival::complete, version};
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
  index_.mark_evicted(slot);
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

Served Shard::answer(const Remove& request, double) {
  Removed reply;
  if (const std::optional<Slot> slot = index_.find(request.key, request.name_space)) {
    reply.status = Status::removed;
    release(*slot);
    ++counters_.removed;
  }
  if (!tier_) return Reply(reply);
  const Name removed{request.key, request.name_space};
  invalidate([&](const Name& name) { return name == removed; });
  tier_->remove(++last_tag_, removed);
  return defer(reply);
}

/// The reply is given when the file tier has done job number last_tag_.
Served Shard::defer(Reply reply) {
  waiting_[last_tag_] = {std::move(reply), {}, {}};
  return Deferred{last_tag_};
}

Served Shard::answer(const Touch& request, double) {
  for (const Key& key : request.keys)
    if (const std::optional<Slot> slot = index_.find(key, request.name_space)) order_.touch(*slot);
  return {};
}

void Shard::discard(const std::function<bool(const Key&)>& gone) {
  for (Slot slot = 0; slot < index_.slots(); ++slot)
    if (index_.at(slot).state == EntryState::live && gone(index_.at(slot).key)) release(slot);
  if (!tier_) return;
  invalidate([&](const Name& name) { return gone(name.key); });
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
  if (tier_) stats.files = tier_->stats();
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
