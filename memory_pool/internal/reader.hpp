#pragma once
// One-sided, verified, batched reads.

#include <map>
#include <span>
#include <vector>

#include "memory_pool/client.hpp"
#include "memory_pool/internal/bucket_table.hpp"
#include "memory_pool/internal/pool_core.hpp"

namespace supernode::pool::internal {

class Reader {
 public:
  /// Both outlive it.
  Reader(PoolCore& core, NamespaceId name_space, ClientStats& stats)
      : core_(core), stats_(stats), name_space_(name_space), watched_at_flush_(core.watched()) {}

  /// Buckets of all keys in flight together, then, with `payload`, the data of all hits; what was torn goes round
  /// again.
  /// @param result [items.size()]
  void read(std::span<const GetItem> items, bool payload, std::span<Found> result);

  /// Sends recorded touches: all of them, or only if some have waited for 50 ms.
  void flush_touches(bool all);

 private:
  struct Attempt;
  void read_slice(std::span<const GetItem> items, bool payload, std::span<Found> result);
  bool is_intact(const Attempt& attempt, std::span<const std::byte> payload);
  bool wait(Transfers& transfers, std::vector<int>& silent);
  bool promote(std::span<const GetItem> items, bool payload, std::span<Found> result);
  void touch(const Key& key);
  void send_touches(int owner, std::vector<Key>& keys);

  PoolCore& core_;
  ClientStats& stats_;
  NamespaceId name_space_;
  std::map<int, std::vector<Key>> touches_;  ///< by owner
  double watched_at_flush_;
  std::uint64_t large_reads_ = 0;
};

}  // namespace supernode::pool::internal
