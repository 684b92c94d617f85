#include "runtime/core/mpi/shared_window.hpp"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "runtime/core/memory_pages.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/mpi_library.hpp"
#include "runtime/core/mpi/watchdog.hpp"
#include "runtime/core/sizes.hpp"

namespace supernode {
namespace {

constexpr std::uint64_t page = 4096;
constexpr const char* how_to_enlarge = "enlarge it (docker run --shm-size=SIZE, or mount -o remount,size=SIZE)";

struct Room {
  std::uint64_t total = 0, free = 0;  ///< bytes
};

/// False where the system does not tell.
bool look_at(const char* folder, Room& room) {
  struct statvfs info {};
  if (::statvfs(folder, &info) != 0 || info.f_frsize == 0) return false;
  room.total = static_cast<std::uint64_t>(info.f_blocks) * info.f_frsize;
  room.free = static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
  return true;
}

std::string in_bytes(std::uint64_t bytes) {
  return fmt::format("{} bytes ({})", bytes, format_size(static_cast<double>(bytes)));
}

/// What the files of a host's window take: the ranks' parts, the library's own data, and the twentieth beyond that Open
/// MPI wants to see free.
std::uint64_t bytes_needed(std::uint64_t bytes_of_ranks, int ranks) {
  const std::uint64_t all = bytes_of_ranks + static_cast<std::uint64_t>(ranks + 4) * page;
  return all + all / 20 + page;
}

/// Collective over both communicators. A window of one rank takes no shared memory.
void check_room(const Communicator& all, const Communicator& host, std::uint64_t bytes, const std::string& folder,
                const WindowUse& use) {
  const std::uint64_t whole_pages = (bytes + page - 1) / page * page;
  const auto of_host = static_cast<std::uint64_t>(host.sum(static_cast<long long>(whole_pages)));
  collectively(all, [&] {
    Room room;
    const std::uint64_t need = bytes_needed(of_host, host.size());
    if (host.size() == 1 || of_host == 0 || folder.empty() || !look_at(folder.c_str(), room) || room.free >= need)
      return;
    throw EnvironmentError(fmt::format("{} needs {} in {} for the {} ranks of a host, where {} are free: {}, or {}",
                                       use.what, in_bytes(need), folder, host.size(), in_bytes(room.free),
                                       how_to_enlarge, use.remedy));
  });
}

/// The result of a collective call that may never return on this rank.
template <class Allocate>
int guarded(int rank, const char* call, std::uint64_t bytes, const WindowUse& use, Allocate&& allocate) {
  int code = MPI_SUCCESS;
  Watchdog watchdog;
  watchdog.guard(
      use.deadline_s, [&] { code = allocate(); },
      [&] {
        return fmt::format("rank {}: {} of {} for {} did not return (is {} full?)", rank, call, in_bytes(bytes),
                           use.what, shared_window_folder());
      });
  return code;
}

// What the handler needs stands here ready: it must not allocate.
struct FullFolder {
  char folder[512] = "";
  char line[1024] = "";
  struct sigaction before {};
  bool installed = false;
};
FullFolder full_folder;
std::mutex full_folder_mutex;  // of name_full_folder()

void on_bus_error(int, siginfo_t*, void*) {
  constexpr std::uint64_t as_good_as_full = std::uint64_t{1} << 20;
  Room room;
  if (look_at(full_folder.folder, room) && room.free < as_good_as_full) {
    std::size_t length = 0;
    while (full_folder.line[length] != '\0') ++length;
    static_cast<void>(!::write(STDERR_FILENO, full_folder.line, length));
    ::_exit(static_cast<int>(ExitCode::environment));
  }
  // Not ours: the instruction is run again, and meets the handler that was there before.
  ::sigaction(SIGBUS, &full_folder.before, nullptr);
}

/// Whether the ranks of `comm`, which are those of a host then, reach each other's memory directly.
enum class Reach { own_memory, whole_host };

SharedWindow allocated(const Communicator& comm, std::uint64_t bytes, const WindowUse& use, Reach reach) {
  const bool shared = reach == Reach::whole_host;
  SharedWindow result;
  OwnedInfo info;
  SUPERNODE_MPI(MPI_Info_create(info.out()));
  SUPERNODE_MPI(MPI_Info_set(info.get(), "alloc_shared_noncontig", "true"));
  const char* call = shared ? "MPI_Win_allocate_shared" : "MPI_Win_allocate";
  const int code = guarded(comm.rank(), call, bytes, use, [&] {
    return (shared ? MPI_Win_allocate_shared : MPI_Win_allocate)(static_cast<MPI_Aint>(bytes), 1, info.get(),
                                                                 comm.get(), &result.own, result.window.out());
  });
  if (!shared) SUPERNODE_MPI(code);
  const bool refused = comm.max(static_cast<long long>(code != MPI_SUCCESS)) != 0;
  return refused ? SharedWindow{} : std::move(result);
}

}  // namespace

std::string shared_window_folder() {
  // Open MPI tells; others use the system's folder.
  const std::string told = mpi_control_variable("osc_sm_backing_directory");
  return told.empty() ? "/dev/shm" : told;
}

void name_full_folder(const std::string& folder, int rank) {
  const std::lock_guard lock(full_folder_mutex);
  Room room;
  look_at(folder.c_str(), room);
  std::snprintf(full_folder.folder, sizeof full_folder.folder, "%s", folder.c_str());
  std::snprintf(
      full_folder.line, sizeof full_folder.line,
      "supernode: rank %d: %s is full (%s in all), and memory that the ranks of this host share lies there: %s, "
      "or choose smaller buffers (pool.capacity, tokens, ranks)\n",
      rank, folder.c_str(), in_bytes(room.total).c_str(), how_to_enlarge);
  if (full_folder.installed) return;
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigemptyset(&action.sa_mask);
  full_folder.installed = ::sigaction(SIGBUS, &action, &full_folder.before) == 0;
}

SharedWindow allocate_shared_window(const Communicator& all, const Communicator& host, std::uint64_t bytes,
                                    const WindowUse& use) {
  const std::string folder = shared_window_folder();
  check_room(all, host, bytes, folder, use);
  name_full_folder(folder, all.rank());
  return allocated(host, bytes, use, Reach::whole_host);
}

SharedWindow allocate_window(const Communicator& all, std::uint64_t bytes, const WindowUse& use) {
  // Where this library has such memory is seen from a small piece of it.
  const std::string file = file_behind(allocated(all, page, use, Reach::own_memory).own);
  const std::string folder = std::filesystem::path(file).parent_path().string();
  check_room(all, all.split_by_host(), bytes, folder, use);
  if (!folder.empty()) name_full_folder(folder, all.rank());
  return allocated(all, bytes, use, Reach::own_memory);
}

void take_window_pages(const Communicator& all, std::span<std::byte> memory, const WindowUse& use) {
  collectively(all, [&] {
    const std::string file = memory.empty() ? "" : file_behind(memory.data());
    if (file.empty() || take_pages(memory)) return;
    const std::string folder = std::filesystem::path(file).parent_path().string();
    Room room;
    look_at(folder.c_str(), room);
    throw EnvironmentError(fmt::format("{} needs {} in {}, which is full by now ({} in all): {}, or {}", use.what,
                                       in_bytes(memory.size()), folder, in_bytes(room.total), how_to_enlarge,
                                       use.remedy));
  });
}

}  // namespace supernode
