#pragma once
// What an owner does with requests: index, space and eviction together. Pure: no MPI, and time comes as an argument.

#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "memory_pool/config.hpp"
#include "memory_pool/internal/allocator.hpp"
#include "memory_pool/internal/bucket_table.hpp"
#include "memory_pool/internal/eviction.hpp"
#include "memory_pool/internal/layout.hpp"
#include "memory_pool/internal/protocol.hpp"

namespace supernode::pool::internal {

/// Invariants: every allocated block belongs to exactly one live entry or one ticket; live <= reserved <= capacity; a
/// block is freed only after its entry has gone from the index.
class Shard {
 public:
  Shard() = default;
  /// `window`: layout_of(config).total_bytes of zeroed memory, aligned to a cache line, outliving the shard.
  Shard(const PoolConfig& config, std::span<std::byte> window);

  /// Serves one request. `keys`: of a touch. `now`: s, steady. `stop` is not for shards.
  Reply serve(const Request& request, std::span<const Key> keys, double now);
  /// Takes back blocks whose writers did not publish within the lease. Cheap; call it now and then.
  void expire(double now);

  OwnerStats stats() const;
  /// Every structure agrees with the others. O(capacity); for tests.
  bool consistent() const;

 private:
  using Slot = BucketTable::Slot;
  struct Name {
    Key key;
    NamespaceId name_space;
    friend bool operator==(const Name&, const Name&) = default;
  };
  struct NameHash {
    std::size_t operator()(const Name& name) const { return std::hash<Key>()(name.key) + name.name_space; }
  };
  /// A block handed out to a writer.
  struct Ticket {
    Name name;
    std::uint64_t offset, length;
    double expires;
  };

  Reply allocate(const Request& request, double now);
  Reply publish(const Request& request);
  void abandon(std::uint64_t ticket);
  Reply remove(const Request& request);
  void touch(NamespaceId name_space, std::span<const Key> keys);

  Status make_room(std::uint64_t bytes, NamespaceId name_space);
  void evict(Slot slot);
  void release(Slot slot);
  std::optional<Slot> slot_for(const Name& name);
  void free_block(std::uint64_t offset, NamespaceId name_space);
  void close(std::uint64_t ticket);

  PoolConfig config_;
  std::span<std::byte> payload_;
  BucketTable index_;
  Allocator space_;
  EvictionOrder order_;
  std::unordered_map<std::uint64_t, Ticket> tickets_;
  std::unordered_set<Name, NameHash> writing_;        ///< names of tickets_
  std::map<NamespaceId, std::uint64_t> reserved_by_;  ///< bytes of blocks of each namespace
  std::uint64_t last_ticket_ = 0;
  double next_expiry_ = 0;
  OwnerStats counters_;  ///< the fields that only count up, and `live`
};

}  // namespace supernode::pool::internal
