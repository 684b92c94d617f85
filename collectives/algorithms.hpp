#pragma once
// The table of exchange algorithms: one row and one file each. It feeds the selector, --help, the tests and the
// benchmark.

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collectives/exchange_config.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

struct BufferPlan;        // algorithms/buffer_plan.hpp
struct ExchangeSetup;     // algorithms/setup.hpp
class ExchangeAlgorithm;  // algorithms/algorithm.hpp

/// One-sided windows that MPI gives; equal on all ranks.
struct WindowSupport {
  bool shared = true;  ///< memory that the ranks of a host share
  bool remote = true;  ///< transfers between hosts
};

/// Windows that an algorithm works with.
enum class Windows {
  none,               ///< messages only
  shared,             ///< shared memory within hosts
  shared_and_remote,  ///< that, and one-sided transfers where there are several hosts
};

/// What a choice may depend on; equal on all ranks.
struct ExchangeShape {
  int ranks = 1;
  int hosts = 1;               ///< hosts that the ranks span
  WindowSupport windows = {};  ///< algorithms that need others are passed over
};

struct AlgorithmEntry {
  std::string_view name;     ///< also its file
  std::string_view summary;  ///< one line for --help
  Windows needs;
  /// The buffers of one rank.
  BufferPlan (*plan)(const ExchangeSetup&);
  /// Collective over `comm`, which outlives the result, as does `setup`.
  std::unique_ptr<ExchangeAlgorithm> (*make)(const ExchangeSetup& setup, const Communicator& comm);
};

/// In the order of the table.
std::span<const AlgorithmEntry> algorithms();

/// The row of `name`. @throws UsageError listing the known names.
const AlgorithmEntry& find_algorithm(std::string_view name);

/// Whether an algorithm has the windows that it needs among ranks of `hosts` hosts. Pure.
bool works(const AlgorithmEntry& entry, int hosts, const WindowSupport& windows);

/// The rows of the algorithms that work on the ranks of `comm`, in the order of the table; some MPI one-sided
/// components have no windows in shared memory, or none between hosts. Collective.
std::vector<const AlgorithmEntry*> working_algorithms(const Communicator& comm, int fake_hosts = 1);

struct Selection {
  const AlgorithmEntry& algorithm;
  std::string rule;  ///< "<file>:<line>" that chose it; empty when it was asked for by name
};

/// The row for config.algorithm; "auto" takes that of the first rule that fits and whose algorithm works, or alltoallv.
/// Pure. @throws UsageError for an unknown name.
Selection select_algorithm(const ExchangeConfig& config, const ExchangeShape& shape);

/// The rows that "auto" may take among `ranks` ranks on any number of hosts. Pure.
std::vector<const AlgorithmEntry*> automatic_algorithms(const ExchangeConfig& config, int ranks);

}  // namespace supernode::collectives
