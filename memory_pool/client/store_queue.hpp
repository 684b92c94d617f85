#pragma once
// Stores as small state machines: allocate -> put -> publish, many at once, nobody waiting.

#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <vector>

#include "memory_pool/client.hpp"
#include "memory_pool/transport/pool_core.hpp"

namespace supernode::pool::internal {

class StoreQueue {
 public:
  /// Both outlive it.
  StoreQueue(PoolCore& core, NamespaceId name_space, ClientStats& stats)
      : core_(core), stats_(stats), name_space_(name_space) {}
  /// Tells owners about blocks that will not come.
  ~StoreQueue();

  /// Waits for the outcomes. Overtakes what is queued.
  std::vector<Status> store(std::span<const PutItem> items, PutMode mode);
  /// Whether a store of so many bytes may wait beside those that do.
  bool has_room(std::size_t bytes) const { return queued_bytes_ + bytes <= core_.config.store_buffer.value; }
  /// False when the queue is full.
  bool enqueue(const Key& key, std::vector<std::byte> data, PutMode mode);
  /// Moves every store as far as it goes without waiting. @returns whether any moved.
  bool advance();
  std::size_t size() const { return waiting_.size() + active_.size(); }

 private:
  enum class Stage { start, allocating, writing, publishing };
  struct Job {
    Job(const Key& job_key, PutMode job_mode) : key(job_key), mode(job_mode) {}
    Key key;
    PutMode mode;
    std::vector<std::byte> owned;  ///< of queued stores
    std::span<const std::byte> data;
    std::optional<Status>* outcome = nullptr;  ///< of store(): where it waits
    Stage stage = Stage::start;
    int owner = -1;
    std::uint64_t request = 0;  ///< awaited reply
    std::uint64_t ticket = 0, offset = 0, checksum = 0;
    double since = 0;         ///< watched() when the owner was last heard
    double allocated_at = 0;  ///< PoolCore::now() before the allocation was asked for
    std::optional<Transfers> put;
  };
  /// One step. @returns whether anything changed; sets `finished`.
  bool step(Job& job, std::optional<Status>& finished);
  /// Gives up a store whose owner has left the view, or takes too long and leaves it now.
  bool expire(const Job& job, std::optional<Status>& finished);
  void ask(Job& job, Request request);
  void begin_put(Job& job, const Allocated& block, std::optional<Status>& finished);
  void publish(Job& job);
  bool step_all();
  /// Whether one more may be in flight.
  bool may_start(const Job& job) const;
  /// The first that waits is in flight from now on.
  void start_first();

  PoolCore& core_;
  ClientStats& stats_;
  NamespaceId name_space_;
  std::list<Job> waiting_, active_;
  std::size_t queued_bytes_ = 0;  ///< of queued stores, waiting or active
  std::size_t active_bytes_ = 0;  ///< of all that are active
};

}  // namespace supernode::pool::internal
