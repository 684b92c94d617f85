#pragma once
// Which algorithm an exchange uses: the one that it names, or by rules.

#include <string>
#include <vector>

#include "collectives/algorithms/table.hpp"
#include "collectives/exchange_config.hpp"

namespace supernode::collectives {

/// What a choice may depend on; equal on all ranks.
struct ExchangeShape {
  int ranks = 1;
  int hosts = 1;               ///< hosts that the ranks span
  WindowSupport windows = {};  ///< algorithms that need others are passed over
};

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
