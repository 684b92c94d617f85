#pragma once
// A tenant's access to the pool. Reads are one-sided: the owner takes no part. Writes are two-phase: the owner
// allocates, the client puts the data, the owner publishes. README.md has both as pictures.

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory_pool/key.hpp"
#include "memory_pool/pool.hpp"
#include "memory_pool/status.hpp"

namespace supernode::pool {

/// What a read found.
struct Found {
  MissReason reason = MissReason::never_stored;  ///< none: a hit
  std::uint64_t length = 0;                      ///< bytes of the payload, on hits and for wrong_size
  std::uint64_t version = 0;                     ///< grows with each publication of an owner; on hits
  bool hit() const { return reason == MissReason::none; }
};

/// One element of a batched read.
struct GetItem {
  Key key;
  std::span<std::byte> destination;  ///< at least as long as the payload; its content is undefined after a miss
};

/// One element of a batched store.
struct PutItem {
  Key key;
  std::span<const std::byte> data;
};

namespace internal {
class Read;
}

/// Gets under way, begun by Client::start_get(). Until an item has ended, its destination belongs to the pool. They
/// move on in test(), wait(), and the progress() of their client; on one host each test() or progress() copies about 1
/// MiB, across hosts MPI moves them, too, while the caller computes. Must not outlive the client.
class PendingGet {
 public:
  PendingGet(PendingGet&&) noexcept;
  PendingGet& operator=(PendingGet&&) noexcept;
  /// Gives up what has not ended; no destination is written from then on, and nothing is counted.
  ~PendingGet();

  std::size_t size() const;  ///< items
  /// Moves on, never waits. @returns whether all have ended.
  bool test();
  /// The same, waiting for at most `seconds`; what has not ended by then stays under way.
  bool wait(double seconds);
  /// Until all have ended: an owner that is silent for PoolConfig::deadline ends its items as misses.
  void wait();
  /// Of item `i`: empty as long as it is under way. Items end in any order.
  std::optional<Found> found(std::size_t i) const;

 private:
  friend class Client;
  explicit PendingGet(std::unique_ptr<internal::Read> read);
  std::unique_ptr<internal::Read> read_;
};

/// Not collective; any number of clients per rank, none shared between threads. Must not outlive its pool. No call
/// throws for a silent owner: within PoolConfig::deadline it leaves the view of this rank, and its keys become misses.
class Client {
 public:
  /// Reads and writes in one namespace, which need not exist before. Local.
  explicit Client(Pool& pool, const std::string& name_space = "default");
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const std::string& name_space() const { return name_space_; }
  Pool& pool() { return pool_; }

  /// Which keys are there, [keys.size()], all owners asked in one round. Moves no payload. A hit may be gone by the
  /// time of a get. Touches (below) are recorded for hits. Brings blocks that are only in files back to DRAM.
  std::vector<Found> lookup(std::span<const Key> keys);
  /// Copies the payload and verifies it: key, namespace, length, version and checksum. Retries torn reads.
  Found get(const Key& key, std::span<std::byte> destination);
  /// As get() for each item, with all transfers in flight together. [items.size()]
  std::vector<Found> get_batch(std::span<const GetItem> items);
  /// Begins the same and returns at once. Any number may be under way; see PendingGet.
  PendingGet start_get(std::span<const GetItem> items);

  /// Stores and waits: stored (with a file tier: durable as PoolConfig::directory_sync says), not_durable,
  /// already_there, full, quota, too_large, owner_down. `data` may be empty. While the key's home is away,
  /// PutMode::keep goes to the owner that stands in for it, and PutMode::replace is answered by owner_down. A key is
  /// used with one of the two modes only.
  Status put(const Key& key, std::span<const std::byte> data, PutMode mode = PutMode::keep);
  /// As put() for each item, with many in flight together. [items.size()]
  std::vector<Status> put_batch(std::span<const PutItem> items, PutMode mode = PutMode::keep);
  /// Queues a store and returns at once; progress() and waiting calls move it on. The outcome is only counted, in
  /// stats().
  /// @returns false, and counts a `full`, when PoolConfig::store_buffer bytes wait already: the block is dropped.
  bool store_async(const Key& key, std::vector<std::byte> data, PutMode mode = PutMode::keep);
  /// Waits, moving on what is under way, until the queue takes `bytes` more: a storer that is faster than its owners
  /// slows down. At most `seconds`. @returns false when there is no room by then, or never will be.
  bool wait_for_room(std::size_t bytes, double seconds);
  /// Moves queued stores and pending gets on, sends recorded touches, serves this rank's own part; never waits.
  /// @returns whether anything happened. Call it now and then from the compute loop.
  bool progress();
  /// Waits until the queue is empty, at most `seconds`. @returns the stores left, which stay queued.
  std::size_t drain(double seconds);
  std::size_t queued() const;  ///< stores not finished

  /// removed, not_there, or owner_down, also when only the owner that stands in for the key's home could be asked.
  Status remove(const Key& key);

  /// One-sided reads leave no trace at the owner, so clients tell owners which keys they hit, in batches of small
  /// messages that nobody waits for. Happens by itself when a batch is full and in progress(); this sends what is
  /// recorded now.
  void flush_touches();

  const ClientStats& stats() const;

 private:
  struct Impl;
  Pool& pool_;
  std::string name_space_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode::pool
