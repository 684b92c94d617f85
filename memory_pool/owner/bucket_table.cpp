#include "memory_pool/owner/bucket_table.hpp"

#include <atomic>
#include <cstring>

#include <xxhash.h>

namespace supernode::pool::internal {

std::uint64_t sum_of(const Entry& entry) { return XXH3_64bits(&entry, offsetof(Entry, sum)); }

std::uint64_t bucket_of(const Key& key, std::uint64_t buckets) {
  // Multiply and shift spreads evenly over any number; the odd constant keeps it apart from the ring's hash.
  const std::uint64_t hash = (key.low + 0x9e3779b97f4a7c15ull * key.high) * 0xd6e8feb86659fd93ull;
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(hash ^ (hash >> 32)) * buckets) >> 64);
}

BucketFinding find_in(const Bucket& bucket, const Key& key, NamespaceId name_space) {
  BucketFinding best;
  bool doubtful = false;
  for (const Entry& entry : bucket.entries) {
    const bool blank = entry.state == EntryState::empty && entry.sum == 0;
    if (blank) continue;
    // An entry that is half rewritten for another key, or from another key to this one, is no longer or not yet ours;
    // only where the whole key matches can a write in progress hide it.
    if (entry.key != key) continue;
    if (entry.sum != sum_of(entry)) {
      doubtful = true;
    } else if (entry.name_space == name_space && entry.state == EntryState::live) {
      return {MissReason::none, entry, static_cast<std::uint32_t>(&entry - bucket.entries.data())};
    } else if (entry.name_space == name_space && entry.state == EntryState::tombstone) {
      best.reason = MissReason::evicted;
    } else if (entry.state == EntryState::live && best.reason == MissReason::never_stored) {
      best.reason = MissReason::other_namespace;
    }
  }
  if (doubtful) best.reason = MissReason::torn;
  return best;
}

std::optional<BucketTable::Slot> BucketTable::find(const Key& key, NamespaceId name_space) const {
  const Slot start = bucket_start(key);
  for (Slot slot = start; slot < start + entries_per_bucket; ++slot) {
    const Entry& entry = at(slot);
    if (entry.state == EntryState::live && entry.key == key && entry.name_space == name_space) return slot;
  }
  return std::nullopt;
}

std::optional<BucketTable::Slot> BucketTable::place_for(const Key& key, NamespaceId name_space) const {
  const Slot start = bucket_start(key);
  std::optional<Slot> empty, oldest;
  for (Slot slot = start; slot < start + entries_per_bucket; ++slot) {
    const Entry& entry = at(slot);
    if (entry.state == EntryState::empty) {
      if (!empty) empty = slot;
    } else if (entry.key == key && entry.name_space == name_space) {
      return slot;
    } else if (entry.state == EntryState::tombstone && (!oldest || entry.version < at(*oldest).version)) {
      oldest = slot;
    }
  }
  return empty ? empty : oldest;
}

BucketTable::Slot BucketTable::bucket_start(const Key& key) const {
  return static_cast<Slot>(bucket_of(key, buckets_.size()) * entries_per_bucket);
}

void BucketTable::store(Slot slot, const Entry& entry) {
  const EntryState before = at(slot).state;
  live_ += (entry.state == EntryState::live) - (before == EntryState::live);
  tombstones_ += (entry.state == EntryState::tombstone) - (before == EntryState::tombstone);
  // Word by word: other processes read this memory meanwhile. The payload was written before; keep that order.
  constexpr std::size_t words = sizeof(Entry) / sizeof(std::uint64_t);
  std::uint64_t from[words];
  std::memcpy(from, &entry, sizeof entry);
  auto* to = reinterpret_cast<std::uint64_t*>(&buckets_[slot / entries_per_bucket].entries[slot % entries_per_bucket]);
  std::atomic_thread_fence(std::memory_order_release);
  for (std::size_t i = 0; i < words; ++i) std::atomic_ref(to[i]).store(from[i], std::memory_order_relaxed);
  // What follows may reuse the old payload: readers must be able to see that the entry has gone before.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

std::uint64_t BucketTable::write(Slot slot, Entry entry) {
  entry.state = EntryState::live;
  entry.version = ++version_;
  entry.sum = sum_of(entry);
  store(slot, entry);
  return entry.version;
}

void BucketTable::mark_evicted(Slot slot) {
  Entry entry = at(slot);
  entry.state = EntryState::tombstone;
  entry.version = ++version_;
  entry.sum = sum_of(entry);
  store(slot, entry);
}

void BucketTable::clear(Slot slot) { store(slot, Entry{}); }

}  // namespace supernode::pool::internal
