#pragma once
// The pool as a service: owners' memory, exposed by an MPI window, and the messages that change it.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory_pool/config.hpp"
#include "memory_pool/status.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/deadline.hpp"

namespace supernode::pool {

class Ring;
namespace internal {
struct PoolAccess;
struct PoolCore;
}  // namespace internal

/// What becomes of an owner's memory while it is silent.
enum class MemoryFate { kept, lost };

/// How Pool::serve_until_all() waits for the other ranks.
struct ServeWait {
  double deadline_s = 120;
  Idle idle = Idle::sleep;  ///< Idle::spin polls all the time, which a measurement may want of its owners
};

/// This rank's part of the pool. Ranks listed as owners lend memory and answer requests; every rank, owners too, may
/// open clients (client.hpp). One thread per rank.
///
/// Owners answer only while they are inside serve_until_stopped(), progress(), or any waiting call of a client of
/// theirs. A rank that waits for its own requests serves them itself, so a single rank can be owner and client.
class Pool {
 public:
  /// Collective over `comm`, which is duplicated. `owners` (ranks of `comm`, no duplicates, at least one) and `config`
  /// are equal on all ranks. Each owner allocates window_bytes(config), all others nothing.
  /// @throws UsageError for bad values, on every rank before any message; MpiError when the memory cannot be had;
  /// AgreedError, on every rank, when an owner cannot use PoolConfig::directory.
  Pool(const Communicator& comm, std::vector<int> owners, const PoolConfig& config);
  /// Collective. Stores still queued are dropped: drain() clients first. Clients must be gone.
  /// Waits at most PoolConfig::close_deadline for the other ranks, then aborts the job with a message naming this rank.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  bool is_owner() const;
  const PoolConfig& config() const;
  const std::vector<int>& owners() const;
  /// This rank's view of the owners; its version counts the changes.
  const Ring& view() const;

  /// Serves requests that have arrived and takes in replies; never waits. Local. @returns whether anything came.
  bool progress();
  /// Owners only: serves until some rank calls stop(); sleeps between polls when nothing happens. Local.
  /// @param between called between polls, when given
  void serve_until_stopped(const std::function<void()>& between = {});
  /// Ends serve_until_stopped() on every owner; any one rank calls it, once, when no client needs the owners any more.
  /// Returns when the messages have left. @returns false when an owner did not take its message within the deadline.
  bool stop();
  bool stopped() const;  ///< owners: a stop has arrived
  /// Runs `work`, then serves until every rank of `comm` has run its own and what this rank has sent has left: who is
  /// done early stays for those who still need its memory. `work` may be another one on each rank, and may be empty.
  /// Collective over `comm`, whose ranks all have this pool.
  /// @throws AgreedError on every rank when `work` has thrown on any; TimeoutError, naming the ranks that are missing,
  /// when they do not come within `wait.deadline_s` of this rank's arrival.
  void serve_until_all(const Communicator& comm, const std::function<void()>& work, const ServeWait& wait);

  /// Creates a namespace on all owners: it may fill `quota_per_owner` bytes of each, and is promised that much: only
  /// its own stores evict its blocks. 0: no promise, and PoolConfig::namespace_quota is its limit. Local; waits for the
  /// owners. Room that is promised and not yet used is lent to namespaces without a promise.
  /// @returns stored; already_there, and nothing changes; quota, on no owner, when one cannot promise that much, which
  /// is all promises together within evict_above of its capacity; owner_down when no owner is left; name_clash, on no
  /// owner, when another name has its number; not_durable when it is made, but an owner's files cannot remember it.
  /// With files, a restart finds it again, with its quota; the first call with the same quota then answers stored.
  Status create_namespace(const std::string& name, std::uint64_t quota_per_owner);
  /// Its blocks are gone, in files too, and its promise free again; waits. Clients of that namespace find nothing.
  /// @returns removed, not_there when it neither was created nor held anything, or owner_down.
  Status delete_namespace(const std::string& name);

  /// Owners only, to try failures: stays silent, out of MPI, for so many seconds. With MemoryFate::lost what it holds is
  /// gone at once, as after a crash; it then comes back empty, or, with a file tier, with what is in its files.
  void simulate_silence(double seconds, MemoryFate memory);

  /// Owners only: what this rank holds now.
  OwnerStats owner_stats() const;
  /// Bytes of this rank's part of the pool that huge pages back now; 0 on ranks that own nothing. Asks the system, so
  /// for reports only.
  std::uint64_t huge_page_bytes() const;
  /// Asks `owner` (a rank of the communicator). Empty when it does not answer within the deadline.
  std::optional<OwnerStats> fetch_stats(int owner);

 private:
  friend struct internal::PoolAccess;
  std::unique_ptr<internal::PoolCore> core_;
};

}  // namespace supernode::pool
