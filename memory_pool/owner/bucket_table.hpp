#pragma once
// The index of an owner, laid out for readers that see it through a window: a key has one bucket, and one read of 1 KiB
// brings the whole bucket. Only the owner writes; readers may meet a write, so each entry carries a checksum of itself.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "memory_pool/format/checksum.hpp"
#include "memory_pool/key.hpp"
#include "memory_pool/status.hpp"

namespace supernode::pool::internal {

enum class EntryState : std::uint32_t {
  empty = 0,
  live = 1,
  tombstone = 2,  ///< evicted: kept as long as nobody needs the slot, so that a miss can say why
};

/// One line of the index, a cache line long.
struct alignas(64) Entry {
  Key key;
  std::uint64_t offset = 0;    ///< of the payload, from the start of the payload area
  std::uint64_t length = 0;    ///< of the payload, bytes
  std::uint64_t version = 0;   ///< grows with every publication and tombstone of this owner
  std::uint64_t checksum = 0;  ///< XXH3-64 of the payload
  NamespaceId name_space = 0;
  EntryState state = EntryState::empty;
  std::uint64_t sum = 0;  ///< XXH3-64 of the 56 bytes above; 0 for a slot never written
};
static_assert(sizeof(Entry) == 64);

constexpr std::size_t entries_per_bucket = 16;
struct Bucket {
  std::array<Entry, entries_per_bucket> entries;
};
static_assert(sizeof(Bucket) == 1024);

std::uint64_t sum_of(const Entry& entry);

/// The bucket of `key` among `buckets`. Independent of the ring's placement, and of the namespace, so that a reader can
/// tell a key of another namespace from one that was never stored.
std::uint64_t bucket_of(const Key& key, std::uint64_t buckets);

/// What a copy of a bucket says of a key.
struct BucketFinding {
  MissReason reason = MissReason::never_stored;  ///< none: `entry` is live; torn: read the bucket again
  Entry entry;
  std::uint32_t place = 0;  ///< of `entry` in its bucket
};
/// `bucket` is a private copy, perhaps taken during a write. Entries that fail their sum make the verdict `torn` unless
/// the key is found intact.
BucketFinding find_in(const Bucket& bucket, const Key& key, NamespaceId name_space);

/// The owner's side. Slots are numbered bucket * 16 + place. Not thread-safe; pure memory.
class BucketTable {
 public:
  using Slot = std::uint32_t;

  BucketTable() = default;
  /// `buckets` is zeroed memory that outlives the table.
  explicit BucketTable(std::span<Bucket> buckets) : buckets_(buckets) {}

  std::size_t slots() const { return buckets_.size() * entries_per_bucket; }
  const Entry& at(Slot slot) const { return buckets_[slot / entries_per_bucket].entries[slot % entries_per_bucket]; }
  /// The live entry of (key, namespace).
  std::optional<Slot> find(const Key& key, NamespaceId name_space) const;

  /// Where (key, namespace) may be written without losing a live entry: its own live or tombstone slot, an empty one,
  /// else the oldest tombstone of the bucket. Empty when all 16 are live.
  std::optional<Slot> place_for(const Key& key, NamespaceId name_space) const;
  /// First slot of the key's bucket; the other 15 follow.
  Slot bucket_start(const Key& key) const;

  /// Writes `entry` with a fresh version and its sum, so that a reader sees the old entry, the new one, or one that
  /// fails its sum. @returns the version.
  std::uint64_t write(Slot slot, Entry entry);
  /// Live -> tombstone.
  void mark_evicted(Slot slot);
  /// Live or tombstone -> empty.
  void clear(Slot slot);

  std::uint64_t live() const { return live_; }
  std::uint64_t tombstones() const { return tombstones_; }

 private:
  void store(Slot slot, const Entry& entry);

  std::span<Bucket> buckets_;
  std::uint64_t version_ = 0, live_ = 0, tombstones_ = 0;
};

}  // namespace supernode::pool::internal
