#pragma once
// What may come of a store and of a read. Expected outcomes are values with fixed numbers, never exceptions.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace supernode::pool {

/// Outcome of a store, a removal, or a change of namespaces. The numbers are part of the protocol.
enum class Status : std::uint32_t {
  stored = 0,         ///< published: every client can read it now
  already_there = 1,  ///< the key is there, or another client is storing it right now; nothing was written
  full = 2,        ///< no room even after eviction (pins, or blocks that are being written), or the store queue is full
  quota = 3,       ///< the namespace may not hold that much, even alone; no such quota is left to promise
  too_large = 4,   ///< larger than an owner's whole memory
  owner_down = 5,  ///< the owner did not answer within the deadline, or no owner is left
  removed = 6,     ///< a removal found the key
  not_there = 7,   ///< a removal, or the second half of a store, did not find what it names
  not_durable = 8,  ///< published, but the file tier could not take it (a full disk): it lasts as long as the DRAM does
  no_namespace = 9,  ///< PoolConfig::open_namespaces is off and nobody has created the client's namespace
  name_clash = 10,  ///< another namespace that was created has the same number (a hash of 32 bits): choose another name
};
constexpr std::size_t status_count = 11;
std::string_view to_string(Status status);

/// Why a read found nothing.
enum class MissReason : std::uint32_t {
  none = 0,             ///< a hit
  never_stored = 1,     ///< the owner has no trace of the key (never stored, removed, or evicted so long ago that its
                        ///< tombstone has been overwritten)
  evicted = 2,          ///< it was there, and went to make room for others
  other_namespace = 3,  ///< the key exists, in a namespace that is not the client's
  torn = 4,             ///< every attempt met a write in progress, or data that fail their checksum
  owner_down = 5,       ///< the key's owner has left this client's view
  wrong_size = 6,       ///< it is there with a length that does not fit the destination
};
constexpr std::size_t miss_reason_count = 7;
std::string_view to_string(MissReason reason);

/// What a store does to a key that is there already.
enum class PutMode : std::uint32_t {
  keep = 0,     ///< nothing: keys name contents, so the same bytes are there (deduplication)
  replace = 1,  ///< publish the new bytes, then free the old; readers see one or the other, never a mixture
};

/// Counts of one kind of read. hits + misses() == asked, always.
struct ReadCounters {
  std::uint64_t asked = 0;
  std::uint64_t hits = 0;
  std::array<std::uint64_t, miss_reason_count> by_reason{};  ///< [reason]; element 0 stays 0

  std::uint64_t misses() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t count : by_reason) sum += count;
    return sum;
  }
  void count(MissReason reason) {
    ++asked;
    if (reason == MissReason::none)
      ++hits;
    else
      ++by_reason[static_cast<std::size_t>(reason)];
  }
};

/// What one client did.
struct ClientStats {
  ReadCounters lookups;                              ///< keys asked for by lookup() and longest_prefix()
  ReadCounters gets;                                 ///< keys asked for by get(), get_batch() and load()
  std::array<std::uint64_t, status_count> stores{};  ///< [status] of finished stores
  std::uint64_t bytes_read = 0, bytes_written = 0;   ///< payload of hits and of stored blocks
  std::uint64_t retries = 0;                         ///< reads repeated because they met a write
  double lookup_seconds = 0, get_seconds = 0;        ///< wall s inside those calls
  double put_seconds = 0;                            ///< wall s inside put(), progress() and drain()
};

/// What the files of one owner hold, and what was done to them.
struct LogStats {
  std::uint64_t records = 0, live_bytes = 0;   ///< blocks that can be read, with their headers
  std::uint64_t bytes = 0;                     ///< of all segments
  std::uint64_t recovered = 0;                 ///< records found intact at the start
  std::uint64_t cut = 0;                       ///< stretches of a file that were no intact record, at the start
  std::uint64_t corrupt = 0;                   ///< records whose payload failed its checksum, at the start or when read
  std::uint64_t foreign = 0;                   ///< files that are not the pool's, left alone
  std::uint64_t forgotten = 0, cleanings = 0;  ///< blocks forgotten because of the limit; segments rewritten
  std::uint64_t write_errors = 0;              ///< records that could not be written
  std::uint64_t syncs = 0;                     ///< fdatasync of the file that is being filled
  std::uint64_t direct = 0;                    ///< records written or read past the page cache
  std::uint64_t direct_refused = 0;            ///< 1: it was asked for, and the file system does not do it
};

/// What one owner holds. live <= reserved <= capacity, and reserved <= high_watermark <= capacity.
struct OwnerStats {
  std::uint64_t capacity = 0;        ///< bytes for payload
  std::uint64_t reserved = 0;        ///< bytes of blocks handed out, rounded up to granules, being written or live
  std::uint64_t live = 0;            ///< payload bytes of published entries
  std::uint64_t high_watermark = 0;  ///< the most that was ever reserved
  std::uint64_t entries = 0;         ///< published entries
  std::uint64_t tombstones = 0;      ///< evicted keys that are still remembered
  std::uint64_t writing = 0;         ///< blocks handed out and not yet published
  std::uint64_t stored = 0, removed = 0, evictions = 0, evicted_bytes = 0;  ///< since the start
  std::uint64_t conflicts = 0;  ///< evictions because a bucket was full, not the memory; part of `evictions`
  std::uint64_t expired = 0;    ///< blocks taken back from writers that never published
  std::uint64_t requests = 0;   ///< messages served
  std::uint64_t namespaces = 0, promised = 0;  ///< namespaces created; the sum of their quotas
  std::uint64_t promotions = 0;                ///< blocks brought back from the files to DRAM
  LogStats files;                              ///< of the file tier; all 0 without one
};

}  // namespace supernode::pool
