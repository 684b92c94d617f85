#pragma once
// The table of exchange algorithms: one row and one file each. It feeds the selector, --help, the tests and the
// benchmark.

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collectives/token_exchange.hpp"

namespace supernode::collectives {

struct ExchangeSetup;  // internal

/// What a choice may depend on; equal on all ranks.
struct ExchangeShape {
  int ranks = 1;
  int hosts = 1;  ///< hosts that the ranks span
};

struct AlgorithmEntry {
  std::string_view name;     ///< also its file
  std::string_view summary;  ///< one line for --help
  /// Bytes of its own buffers on each rank.
  std::size_t (*buffer_bytes)(const ExchangeSetup&);
  /// Collective over `comm`, which outlives the result, as does `setup`.
  std::unique_ptr<ExchangeAlgorithm> (*make)(const ExchangeSetup& setup, const Communicator& comm);
};

/// In the order of the table.
std::span<const AlgorithmEntry> algorithms();

/// The row of `name`. @throws UsageError listing the known names.
const AlgorithmEntry& find_algorithm(std::string_view name);

struct Selection {
  const AlgorithmEntry& algorithm;
  std::string rule;  ///< "<file>:<line>" that chose it; empty when it was asked for by name
};

/// The row for config.algorithm; "auto" takes that of the first rule that fits, or alltoallv. Pure.
/// @throws UsageError for an unknown name.
Selection select_algorithm(const ExchangeConfig& config, const ExchangeShape& shape);

/// The rows that "auto" may take among `ranks` ranks on any number of hosts. Pure.
std::vector<const AlgorithmEntry*> automatic_algorithms(const ExchangeConfig& config, int ranks);

}  // namespace supernode::collectives
