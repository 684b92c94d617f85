#pragma once
// What an owner does with requests: index, space and eviction together. Pure: no MPI, and time comes as an argument.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "memory_pool/config.hpp"
#include "memory_pool/files/file_tier.hpp"
#include "memory_pool/format/protocol.hpp"
#include "memory_pool/owner/allocator.hpp"
#include "memory_pool/owner/bucket_table.hpp"
#include "memory_pool/owner/eviction.hpp"
#include "memory_pool/owner/layout.hpp"
#include "memory_pool/owner/model_directory.hpp"
#include "memory_pool/owner/namespaces.hpp"

namespace supernode::pool::internal {

/// Invariants: every allocated block belongs to exactly one live entry or one ticket; live <= reserved <= capacity; a
/// block is freed only after its entry has gone from the index; a store evicts blocks of its own namespace, and of
/// those to which nothing is promised, never others.
class Shard {
 public:
  Shard() = default;
  /// `window`: layout_of(config).total_bytes, aligned to a cache line, outliving the shard; the index is zeroed.
  /// `directory`: of the file tier; empty: none. @throws EnvironmentError when it cannot be used.
  Shard(const PoolConfig& config, std::span<std::byte> window, const std::string& directory = {});

  /// Serves one request. `keys`: of a touch or promotion, or a packed name. `now`: s, steady. `stop` and `discard` are
  /// not for shards.
  Reply serve(const Request& request, std::span<const Key> keys, double now);
  /// Removes all blocks whose keys `gone` names, from the files too, where another thread calls it.
  void discard(const std::function<bool(const Key&)>& gone);
  /// Answers that waited for the file tier, with the number that their Reply::later had. Never waits.
  std::vector<Reply> settle(double now);
  /// Takes back blocks whose writers did not publish within the lease. Cheap; call it now and then.
  void expire(double now);

  /// For an owner that plays dead: its memory is lost to all readers from now on. No other call may follow.
  void lose();

  OwnerStats stats() const;
  /// Every structure agrees with the others. O(capacity); for tests.
  bool consistent() const;

 private:
  using Slot = BucketTable::Slot;
  /// A block handed out to a writer.
  struct Ticket {
    Name name;
    std::uint64_t offset, length;
    double expires;
  };

  Reply allocate(const Request& request, double now);
  Reply publish(const Request& request, bool promoted);
  Reply promote(const Request& request, std::span<const Key> keys);
  bool admit(const Name& name, const RecordLog::Payload& payload, double now);
  void spoil(const Name& name);
  Reply later(Reply reply, std::uint64_t request);
  void abandon(std::uint64_t ticket);
  Reply remove(const Request& request);
  void touch(NamespaceId name_space, std::span<const Key> keys);
  Reply create_namespace(const Request& request, const std::string& name);
  void restore_namespace(const NamespaceTerms& terms);
  Reply delete_namespace(const Request& request);

  /// Bytes that may be reserved before blocks give way.
  std::uint64_t watermark() const {
    return static_cast<std::uint64_t>(config_.evict_above * static_cast<double>(space_.capacity()));
  }
  Status make_room(std::uint64_t bytes, NamespaceId name_space);
  std::optional<Slot> victim_for(NamespaceId name_space) const;
  void evict(Slot slot);
  void release(Slot slot);
  std::optional<Slot> slot_for(const Name& name);
  bool may_evict(Slot slot, NamespaceId for_whom) const;
  void free_block(std::uint64_t offset, NamespaceId name_space);
  void close(std::uint64_t ticket);

  OwnerHeader& header() { return *reinterpret_cast<OwnerHeader*>(payload_.data() + payload_.size()); }

  PoolConfig config_;
  std::span<std::byte> payload_;  ///< the header follows it
  BucketTable index_;
  Allocator space_;
  EvictionOrder order_;
  std::unordered_map<std::uint64_t, Ticket> tickets_;
  std::unordered_set<Name, NameHash> writing_;  ///< names of tickets_
  Namespaces namespaces_;
  ModelDirectory models_;  ///< used on the first owner of the view
  std::uint64_t incarnation_ = 0;
  std::uint64_t last_ticket_ = 0;  ///< starts at a random number: tickets of an earlier incarnation are not honoured
  double next_expiry_ = 0;
  /// An answer that waits for the file tier.
  struct Waiting {
    Reply reply;
    std::vector<Name> names;          ///< of a promotion
    std::vector<std::size_t> places;  ///< of names in the request; `spoiled` when the key changed meanwhile
  };
  static constexpr std::size_t spoiled = ~std::size_t{0};
  std::unique_ptr<FileTier> tier_;
  std::map<std::uint64_t, Waiting> waiting_;
  std::uint64_t last_tag_ = 0;
  OwnerStats counters_;  ///< the fields that only count up, and `live`
};

}  // namespace supernode::pool::internal
