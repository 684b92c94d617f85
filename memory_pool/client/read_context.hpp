#pragma once
// What the reads of a client share: who they are for, the ones under way, their counters, and the touches.

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "memory_pool/client.hpp"
#include "memory_pool/client/read.hpp"
#include "memory_pool/transport/pool_core.hpp"

namespace supernode::pool::internal {

class ReadContext {
 public:
  /// Both outlive it.
  ReadContext(PoolCore& core, NamespaceId name_space, ClientStats& stats)
      : core_(core), stats_(stats), name_space_(name_space), watched_at_flush_(core.watched()) {}

  /// The whole of a read, waiting. [items.size()]
  std::vector<Found> read(std::vector<GetItem> items, Wanted wanted);
  /// Moves all reads on, each by at most `budget` bytes of copies. @returns whether any moved.
  bool advance(std::uint64_t budget);
  /// Sends recorded touches.
  void flush_touches();
  /// The same when that has not been done for 50 ms.
  void flush_touches_now_and_then();

  PoolCore& core() { return core_; }
  NamespaceId name_space() const { return name_space_; }
  ClientStats& stats() { return stats_; }

  // For Read.
  /// Idle lanes. Reads are made often and lanes are large: those of earlier reads are used again.
  std::vector<ReadLane> take_lanes(std::size_t count);
  void give_back(std::vector<ReadLane> lanes);
  void enter(Read& read) { active_.push_back(&read); }
  void leave(Read& read) { std::erase(active_, &read); }
  void ended(const Read& read);  ///< counts its results, and touches what it found
  void count_retry() { ++stats_.retries; }
  /// Whether the checksum of a payload that came through shared memory is compared, too.
  bool wants_checksum(std::uint64_t bytes);

 private:
  void touch(const Key& key);
  void send_touches(int owner, std::vector<Key>& keys);

  PoolCore& core_;
  ClientStats& stats_;
  NamespaceId name_space_;
  std::vector<Read*> active_;
  std::vector<ReadLane> spare_lanes_;
  std::map<int, std::vector<Key>> touches_;  ///< by owner
  double watched_at_flush_;
  std::uint64_t large_reads_ = 0;
};

}  // namespace supernode::pool::internal
