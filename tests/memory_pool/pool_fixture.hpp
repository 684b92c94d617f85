#pragma once
// Pools for MPI tests: ranks in the roles of owners and clients, and meeting points at which owners go on serving.

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include "memory_pool/client.hpp"
#include "memory_pool/ring.hpp"
#include "memory_pool/transport/pool_access.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "tests/memory_pool/payload.hpp"
#include "tests/support/mpi_fixture.hpp"

namespace supernode::test {

/// The pool behind its face.
inline pool::internal::PoolCore& core_of(pool::Pool& pool) { return pool::internal::PoolAccess::core(pool); }

/// Waits for all ranks of the world without leaving the pool: owners go on serving.
inline void meet(pool::Pool& pool) { pool.serve_until_all(world(), {}, {.deadline_s = 60, .idle = Idle::spin}); }

/// One directory for all ranks, which goes with the test.
class Folder {
 public:
  Folder()
      : path_(std::filesystem::temp_directory_path() /
              ("supernode-pool-" + world().broadcast(std::to_string(::getpid())))) {
    clear();
  }
  ~Folder() { clear(); }
  std::string text() const { return path_.string(); }

 private:
  void clear() const {
    world().barrier();
    std::error_code ignored;
    if (world().rank() == 0) std::filesystem::remove_all(path_, ignored);
    world().barrier();
  }
  std::filesystem::path path_;
};

/// A signal between ranks that needs no MPI: an owner must stay out of it to be silent.
class Flag {
 public:
  Flag()
      : path_(std::filesystem::temp_directory_path() /
              ("supernode-pool-test-" + world().broadcast(std::to_string(::getpid())))) {
    if (world().rank() == 0) std::filesystem::remove(path_);
    world().barrier();
  }
  ~Flag() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  void raise() const { std::ofstream(path_) << "go on"; }
  /// Sleeps, without MPI.
  void wait() const {
    for (int turn = 0; turn < 6000 && !std::filesystem::exists(path_); ++turn)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

 private:
  std::filesystem::path path_;
};

inline std::vector<int> first_ranks(int count) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// A key whose owner is `rank`; the `number`-th of them.
inline pool::Key key_at(const pool::Pool& pool, int rank, int number = 0) {
  for (std::uint64_t i = 0;; ++i)
    if (pool.view().owner_of(key_number(i)) == rank && number-- == 0) return key_number(i);
}

/// The time of this rank's part of a pool, which stands still at first: then no deadline ends, however slow the machine
/// is, and while it runs, those of silent owners end after a few looks for messages.
class TestClock {
 public:
  explicit TestClock(pool::Pool& pool) : state_(std::make_shared<State>()) {
    state_->seconds = wall_now().value;
    core_of(pool).now = [state = state_] { return state->seconds += state->step; };
  }
  void stand() { state_->step = 0; }
  void run() { state_->step = 0.05; }  ///< so many seconds at each look
  void pass(double seconds) { state_->seconds += seconds; }

 private:
  struct State {
    double seconds = 0, step = 0;
  };
  std::shared_ptr<State> state_;
};

/// Owners: silent, out of MPI, until the flag is raised. With MemoryFate::lost they lose what they hold, and then have a
/// new shard.
inline void stay_silent(pool::Pool& pool, const Flag& flag, pool::MemoryFate memory) {
  if (memory == pool::MemoryFate::lost) core_of(pool).shard->lose_memory();
  flag.wait();
  if (memory == pool::MemoryFate::lost) core_of(pool).start_shard();
}

/// Whether the memory of `owner`, which is silent, can be read. That depends on the MPI library and the fabric.
inline bool reads_need_no_owner(pool::Pool& pool, int owner) {
  pool::internal::Transfers transfer(core_of(pool).segment);
  std::array<std::byte, 8> word{};
  transfer.get(owner, 0, word);
  const Deadline deadline(2);
  while (!transfer.test())
    if (deadline.expired()) return false;
  return true;
}

/// Every way to give out the roles that this world allows: number of owners (the first ranks), and whether they use the
/// pool themselves.
struct Roles {
  int owners;
  bool owners_use;
};
inline std::vector<Roles> all_roles() {
  std::vector<Roles> roles{{world().size(), true}};
  if (world().size() >= 2) roles.push_back({1, false});
  if (world().size() >= 3) roles.push_back({2, false});
  return roles;
}

/// The entry of a key that this rank owns, in its own memory; null when there is none.
inline pool::internal::Entry* entry_of(pool::Pool& pool, const pool::Key& key, const std::string& name_space) {
  auto* buckets = reinterpret_cast<pool::internal::Bucket*>(core_of(pool).segment.local().data());
  for (auto& candidate : buckets[pool::internal::bucket_of(key, core_of(pool).layout.buckets)].entries)
    if (candidate.key == key && candidate.name_space == pool::namespace_id(name_space)) return &candidate;
  return nullptr;
}

inline pool::PoolConfig small_pool(const std::string& transport) {
  pool::PoolConfig config;
  config.capacity = {256 << 10};
  config.granule = {256};
  config.transport = transport;
  config.deadline = 30;
  return config;
}

/// Runs `use(pool)` on the ranks that use the pool while the others serve. `after(pool)` then runs on all ranks.
inline void with_pool(const pool::PoolConfig& config, const Roles& roles, const std::function<void(pool::Pool&)>& use,
                      const std::function<void(pool::Pool&)>& after = {}) {
  pool::Pool pool(world(), first_ranks(roles.owners), config);
  const bool uses = roles.owners_use || !pool.is_owner();
  const Communicator users = world().split(uses ? 0 : MPI_UNDEFINED, 0);
  if (uses) {
    use(pool);
    if (roles.owners_use) {
      meet(pool);
    } else {
      users.barrier();
      if (users.rank() == 0) CHECK(pool.stop());
    }
  } else {
    pool.serve_until_stopped();
    CHECK(pool.stopped());
  }
  if (after) after(pool);
  meet(pool);
}

}  // namespace supernode::test
