#pragma once
// Memory that the ranks of a host share, and the flags by which they tell each other what lies there.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "collectives/algorithms/round.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

/// Says that something of a round is complete. Alone on its cache line.
struct alignas(line_bytes) Flag {
  std::atomic<std::uint64_t> round_and_rows{0};  ///< round number << 32 | rows

  /// Everything written before is seen by whoever sees the flag.
  void raise(std::uint64_t round, int rows = 0) {
    round_and_rows.store(round << 32 | static_cast<std::uint32_t>(rows), std::memory_order_release);
  }
  /// @returns the rows, or -1 while the flag is not raised for `round`.
  int rows_of(std::uint64_t round) const {
    const std::uint64_t value = round_and_rows.load(std::memory_order_acquire);
    return value >> 32 == (round & 0xffffffff) ? static_cast<int>(value & 0xffffffff) : -1;
  }
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "flags work between processes");

/// Bytes that a segment takes beyond what is asked for, since MPI's memory need not begin at a line.
inline constexpr std::size_t segment_overhead_bytes = line_bytes;

/// A *segment* of memory for each rank, which all ranks of its host can read and write. Pages come into being when they
/// are touched.
class HostMemory {
 public:
  /// Collective over `comm`, whose ranks are those of `setup`. The own segment has `bytes` and, beyond them, the
  /// overhead; it begins with `flags` lowered flags. @throws EnvironmentError naming the setup's algorithm when there
  /// is not enough.
  HostMemory(const ExchangeSetup& setup, const Communicator& comm, std::size_t bytes, std::size_t flags);

  std::byte* own() const { return segments_[own_]; }
  /// The segment of another rank of this host; null for ranks of other hosts.
  std::byte* of(int rank) const { return segments_[rank]; }
  Flag& flag(int rank, std::size_t index) const { return reinterpret_cast<Flag*>(segments_[rank])[index]; }
  /// Bytes of the own segment as MPI was asked for them; it gives whole pages.
  std::size_t allocated_bytes() const { return bytes_; }

 private:
  int own_;
  std::size_t bytes_;
  Communicator host_;
  OwnedWindow window_;
  std::vector<std::byte*> segments_;  // [ranks], in this rank's address space; begin at a line
};

}  // namespace supernode::collectives
