#include "runtime/core/mpi/doorbell.hpp"

#include <cstddef>
#include <ctime>
#include <new>
#include <numeric>
#include <unordered_map>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/core/log.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/shared_window.hpp"

namespace supernode {
namespace {

using Bell = std::atomic<std::uint32_t>;
static_assert(Bell::is_always_lock_free && sizeof(Bell) == sizeof(std::uint32_t));

/// Of this process; as MPI itself, there is one.
struct Bells {
  SharedWindow window;
  std::unordered_map<int, Bell*> of_rank;  ///< by rank of the world
  Bell* own = nullptr;
  bool of_all = false;  ///< the whole world's
};
Bells& bells() {
  static Bells all;
  return all;
}

/// Ranks of `comm` as ranks of the world.
std::vector<int> world_ranks(const Communicator& comm) {
  MPI_Group group = MPI_GROUP_NULL, world = MPI_GROUP_NULL;
  SUPERNODE_MPI(MPI_Comm_group(comm.get(), &group));
  SUPERNODE_MPI(MPI_Comm_group(MPI_COMM_WORLD, &world));
  std::vector<int> ranks(static_cast<std::size_t>(comm.size())), in_world(ranks.size());
  std::iota(ranks.begin(), ranks.end(), 0);
  SUPERNODE_MPI(MPI_Group_translate_ranks(group, comm.size(), ranks.data(), world, in_world.data()));
  SUPERNODE_MPI(MPI_Group_free(&group));
  SUPERNODE_MPI(MPI_Group_free(&world));
  return in_world;
}

long futex(Bell* bell, int operation, std::uint32_t value, const timespec* most) {
  // Not FUTEX_PRIVATE: the memory is shared between processes.
  return ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(bell), operation, value, most, nullptr, 0);
}

}  // namespace

namespace doorbell {

void hang(const Communicator& host) {
  Bells& all = bells();
  try {
    all.window =
        allocate_shared_window(host, host, sizeof(Bell), {"a bell for each rank", "run fewer ranks on a host"});
  } catch (const AgreedError& error) {
    log(LogLevel::debug, "{}: waiting ranks look for messages at intervals", error.what());
    return;
  }
  if (!all.window.window) return;
  const std::vector<int> of_world = world_ranks(host);
  for (int rank = 0; rank < host.size(); ++rank) {
    MPI_Aint bytes = 0;
    int unit = 0;
    std::byte* memory = nullptr;
    SUPERNODE_MPI(MPI_Win_shared_query(all.window.window.get(), rank, &bytes, &unit, &memory));
    Bell* bell = reinterpret_cast<Bell*>(memory);
    if (rank == host.rank()) all.own = new (bell) Bell(0);
    all.of_rank.emplace(of_world[static_cast<std::size_t>(rank)], bell);
  }
  all.of_all = host.size() == Communicator::world().size();
  host.barrier();  // before anybody rings
}

void take_down() { bells() = {}; }

bool hung() { return bells().own != nullptr; }

bool rung_by_all() { return bells().of_all; }

std::uint32_t rings() { return hung() ? bells().own->load(std::memory_order_acquire) : 0; }

void wait(std::uint32_t seen, std::chrono::microseconds most) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(most);
  const timespec span{static_cast<std::time_t>(seconds.count()),
                      static_cast<long>(std::chrono::nanoseconds(most - seconds).count())};
  // Returns at once when the bell has rung since; a signal is as good as a ring.
  futex(bells().own, FUTEX_WAIT, seen, &span);
}

}  // namespace doorbell

PeerBells::PeerBells(const Communicator& comm) {
  if (!doorbell::hung()) return;
  for (const int rank : world_ranks(comm)) {
    const auto bell = bells().of_rank.find(rank);
    bells_.push_back(bell == bells().of_rank.end() ? nullptr : bell->second);
  }
}

void PeerBells::ring(int rank) const {
  if (bells_.empty()) return;
  Bell* bell = bells_[static_cast<std::size_t>(rank)];
  if (!bell) return;
  bell->fetch_add(1, std::memory_order_release);
  futex(bell, FUTEX_WAKE, 1, nullptr);
}

}  // namespace supernode
