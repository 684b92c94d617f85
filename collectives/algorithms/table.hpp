#pragma once
// The table of exchange algorithms: one row and one file each. It feeds the choice, --help, the tests and the
// benchmark.

#include <memory>
#include <span>
#include <string_view>

#include "collectives/algorithms/window_support.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

struct BufferPlan;
struct ExchangeSetup;
class ExchangeAlgorithm;

struct AlgorithmEntry {
  std::string_view name;     ///< also its file
  std::string_view summary;  ///< one line for --help
  Windows needs;
  /// The buffers of one rank.
  BufferPlan (*plan)(const ExchangeSetup&);
  /// Collective over `comm`, which outlives the result, as does `setup`.
  std::unique_ptr<ExchangeAlgorithm> (*make)(const ExchangeSetup& setup, const Communicator& comm);
};

std::span<const AlgorithmEntry> algorithm_table();

/// The row of `name`. @throws UsageError listing the known names.
const AlgorithmEntry& find_algorithm(std::string_view name);

/// @throws EnvironmentError naming the algorithm, what it lacks, and the algorithms that work, when it lacks a window
/// among the ranks of `hosts` hosts. Pure but for the name of MPI's one-sided component.
void require_windows(const AlgorithmEntry& entry, int hosts, const WindowSupport& support);

}  // namespace supernode::collectives
