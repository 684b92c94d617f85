#pragma once
// The figures of a result that all operations of the benchmark have.

#include <cstdint>
#include <span>

#include "collectives/benchmark/benchmark.hpp"
#include "runtime/core/mpi/repeat.hpp"

namespace supernode::collectives {

/// Fills in the times, bytes, wrong elements and memory of a result from what each rank knows. Collective.
/// @param bytes_to, bytes_from [ranks] of this rank in a round
/// @param result resident_bytes is this rank's, and becomes the largest
void fill_figures(const Communicator& comm, const Contender& contender, std::span<const std::uint64_t> bytes_to,
                  std::span<const std::uint64_t> bytes_from, long long wrong, BenchmarkResult& result);

}  // namespace supernode::collectives
