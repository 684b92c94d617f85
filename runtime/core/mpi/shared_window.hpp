#pragma once
// Windows of memory that the ranks of a host share. MPI libraries keep it in files of a small file system, usually
// /dev/shm (64 MiB in a container), as files with holes. That has two traps, which this file closes:
// - Where the files do not fit, Open MPI's first rank of the host leaves the collective call, and the others wait in it
//   for ever. So the room is looked at before, and what is missing is agreed.
// - Where they fit and the file system fills up later, touching a page is SIGBUS. So whoever needs all of its memory
//   takes the pages at once, and for the others the signal's cause is named.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/handle.hpp"

namespace supernode {

/// The words of the one line that a user gets when there is no room: "<what> needs ..., or <remedy>".
struct WindowUse {
  std::string what;        ///< "the pool's memory"
  std::string remedy;      ///< "choose a smaller pool.capacity"
  double deadline_s = 60;  ///< for the collective call itself: another process may take the room meanwhile
};

struct SharedWindow {
  OwnedWindow window;  ///< null where this MPI library has no such windows (another one-sided component was chosen)
  std::byte* own = nullptr;  ///< this rank's memory; not cleared, not aligned
};

/// MPI_Win_allocate_shared with `bytes` of this rank, each rank's memory at pages of its own. Collective over `all`,
/// which is split into hosts, each with a window over its `host` communicator; the two may be the same.
/// @throws AgreedError (environment) on every rank of `all` when a host has no room: bytes needed, bytes free, and the
/// ways out.
SharedWindow allocate_shared_window(const Communicator& all, const Communicator& host, std::uint64_t bytes,
                                    const WindowUse& use);

/// The same by MPI_Win_allocate. Most libraries take such memory from the same file system where ranks share a host.
/// Collective over `all`. @throws as allocate_shared_window(); MpiError when the library has no such windows.
SharedWindow allocate_window(const Communicator& all, std::uint64_t bytes, const WindowUse& use);

/// Takes the pages of `memory`, a part of this rank's fresh window (empty on ranks that need none). Collective over
/// `all`. Costs as much as writing it. @throws AgreedError (environment) on every rank when a host has not enough.
void take_window_pages(const Communicator& all, std::span<std::byte> memory, const WindowUse& use);

/// The folder in which this MPI library keeps shared windows.
std::string shared_window_folder();

/// From now on, SIGBUS because `folder` is full ends the process with one line and exit code 3. Other causes go to the
/// handler that was there before. The functions above do this; the last folder given counts.
void name_full_folder(const std::string& folder, int rank);

}  // namespace supernode
