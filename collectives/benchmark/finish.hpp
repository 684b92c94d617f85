#pragma once
// What all operations of the benchmark do alike: faults in a round, and the figures at the end.

#include <cstdint>
#include <span>

#include "collectives/benchmark/benchmark.hpp"
#include "collectives/benchmark/repeat.hpp"

namespace supernode::collectives {

/// Sleeps, on the rank and as long as the fault says: a stopped rank sleeps until the run is aborted.
void come_late(const Injection& fault, int rank);

inline bool corrupts(const Injection& fault, int rank) {
  return fault.kind == Injection::Kind::corrupt && fault.rank == rank;
}

/// Fills in the times, bytes, wrong elements and memory of a result from what each rank knows. Collective.
/// @param result resident_bytes is this rank's, and becomes the largest
void finish(const Communicator& comm, const Contender& contender, std::span<const std::uint64_t> bytes_to,
            std::span<const std::uint64_t> bytes_from, long long wrong, BenchmarkResult& result);

}  // namespace supernode::collectives
