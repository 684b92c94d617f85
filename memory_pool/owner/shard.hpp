#pragma once
// An owner's shard: index, space and eviction together, and what requests do to them. Pure: no MPI; time, the
// incarnation and the file tier come as arguments.

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "memory_pool/config.hpp"
#include "memory_pool/files/file_tier.hpp"
#include "memory_pool/format/messages.hpp"
#include "memory_pool/owner/allocator.hpp"
#include "memory_pool/owner/bucket_table.hpp"
#include "memory_pool/owner/eviction.hpp"
#include "memory_pool/owner/layout.hpp"
#include "memory_pool/owner/model_directory.hpp"
#include "memory_pool/owner/namespaces.hpp"

namespace supernode::pool::internal {

/// The reply waits for the file tier; Shard::settle() gives it under this number.
struct Deferred {
  std::uint64_t number = 0;
};
/// What serving a request gives: nothing (it has no reply), the reply, or its number.
using Served = std::variant<std::monostate, Reply, Deferred>;

/// A reply that was deferred.
struct Settled {
  std::uint64_t number = 0;
  Reply reply;
};

/// Invariants: every allocated block belongs to exactly one live entry or one ticket; live <= reserved <= capacity; a
/// block is freed only after its entry has gone from the index; a store evicts blocks of its own namespace, and of
/// those to which nothing is promised, never others.
class Shard {
 public:
  Shard() = default;
  /// `window`: layout_of(config).total_bytes, aligned to a cache line, outliving the shard; the index is zeroed.
  /// `incarnation`: random and not 0, another one at each start. `tier`: outlives the shard; null: no files.
  Shard(const PoolConfig& config, std::span<std::byte> window, std::uint64_t incarnation, FileTier* tier = nullptr);

  /// Serves one request: any body of `Request` but Stop and Discard, which are not for shards. `now`: s, steady.
  template <class Body>
  Served serve(const Body& request, double now) {
    ++counters_.requests;
    return answer(request, now);
  }
  /// Removes all blocks whose keys `gone` names, from the files too, where another thread calls it.
  void discard(const std::function<bool(const Key&)>& gone);
  /// Replies that waited for the file tier and are there now. Never waits.
  std::vector<Settled> settle(double now);
  /// Takes back blocks whose writers did not publish within the lease. Cheap; call it now and then.
  void expire(double now);

  /// To try a failure: its memory is lost to all readers from now on. No other call may follow.
  void lose_memory();

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

  Served answer(const Allocate& request, double now) { return Reply(allocate(request, now)); }
  Served answer(const Publish& request, double now);
  Served answer(const Abandon& request, double now);
  Served answer(const Remove& request, double now);
  Served answer(const Touch& request, double now);
  Served answer(const Stats& request, double now);
  Served answer(const Promote& request, double now);
  Served answer(const CreateNamespace& request, double now);
  Served answer(const DeleteNamespace& request, double now);
  Served answer(const Ping& request, double now);
  Served answer(const ModelRequest& request, double now);

  Allocated allocate(const Allocate& request, double now);
  Published make_live(std::uint64_t ticket, std::uint64_t checksum);
  bool admit(const Name& name, const RecordLog::Payload& payload, double now);
  void invalidate(const std::function<bool(const Name&)>& changed);
  Served defer(Reply reply);
  void abandon(std::uint64_t ticket);
  void restore_namespace(const NamespaceTerms& terms);

  /// Bytes that may be reserved before blocks are evicted.
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
    std::vector<std::size_t> places;  ///< of names in the request; `out_of_date` when the key changed meanwhile
  };
  static constexpr std::size_t out_of_date = ~std::size_t{0};
  FileTier* tier_ = nullptr;
  std::map<std::uint64_t, Waiting> waiting_;
  std::uint64_t last_tag_ = 0;
  OwnerStats counters_;  ///< the fields that only count up, and `live`
};

}  // namespace supernode::pool::internal
