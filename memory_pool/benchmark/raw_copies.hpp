#pragma once
// What the pool is compared with: the same bytes by MPI_Get or MPI_Put with a flush, and by memcpy.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "memory_pool/benchmark/blocks.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::pool::internal {

enum class WindowKind { allocate, shared };

/// A window of the owners' ranks, locked for all its life.
class RawWindow {
 public:
  /// Collective. `bytes`: of this rank. Not ok() where this MPI has no such window.
  RawWindow(const Communicator& comm, std::uint64_t bytes, WindowKind kind);
  ~RawWindow();
  RawWindow(const RawWindow&) = delete;
  RawWindow& operator=(const RawWindow&) = delete;

  bool ok() const { return static_cast<bool>(window_); }
  /// The bytes are there, or have arrived, when it returns. @pre ok()
  void get(int owner, std::uint64_t offset, std::span<std::byte> to);
  void put(int owner, std::uint64_t offset, std::span<const std::byte> from);

 private:
  OwnedWindow window_;
};

enum class Direction { get, put };

/// A way to copy. The numbers are places of a table.
enum class RawCopy { mpi_allocate = 0, mpi_shared = 1, memory = 2 };
inline constexpr std::array all_raw_copies{RawCopy::mpi_allocate, RawCopy::mpi_shared, RawCopy::memory};

/// The windows, and a client's memory of the same size, for all cases of a benchmark.
class RawMemory {
 public:
  /// Collective; every owner gives `capacity` bytes to each window. `most`: shared makes windows of both kinds.
  RawMemory(const Communicator& comm, std::vector<int> owners, std::uint64_t capacity, WindowKind most);
  /// Clients only: takes the memory, and writes and reads all of the windows, so that no timed call is the first to map
  /// a page.
  void touch();
  /// Equal on all ranks.
  bool has(RawCopy way) const;

  /// A block from or to a place drawn. @returns its seconds.
  /// @param buffer [block bytes]
  double copy(RawCopy way, Direction direction, Draw& draw, std::span<std::byte> buffer);

 private:
  RawWindow& window(RawCopy way) { return way == RawCopy::mpi_allocate ? allocated_ : *shared_; }

  std::vector<int> owners_;
  std::uint64_t capacity_;
  std::uint64_t own_bytes_;  ///< of each window
  RawWindow allocated_;
  std::unique_ptr<RawWindow> shared_;  ///< null when it is not wanted
  std::vector<std::byte> local_;
};

}  // namespace supernode::pool::internal
