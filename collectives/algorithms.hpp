#pragma once
// The exchange algorithms by name: which there are, and which of them work here. For commands and their options.

#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

struct AlgorithmName {
  std::string_view name;     ///< also its file
  std::string_view summary;  ///< one line for --help
};

/// All algorithms, in the order of the table.
std::vector<AlgorithmName> algorithms();

/// @throws UsageError listing the known names when `name` is none of them.
void check_algorithm_name(std::string_view name);

/// An algorithm that does not work on these ranks.
struct UnavailableAlgorithm {
  std::string name;
  std::string reason;  ///< "needs memory that ..., which this MPI refuses"
};

/// Every algorithm is in one of the two lists, which keep the order of the table.
struct AvailableAlgorithms {
  std::vector<std::string> working;
  std::vector<UnavailableAlgorithm> left_out;
};

/// Tries which algorithms work on the ranks of `comm`: some one-sided components of MPI have no windows in shared
/// memory, or none between hosts. Collective; equal on all ranks.
/// @param fake_hosts as in ExchangeConfig
AvailableAlgorithms available_algorithms(const Communicator& comm, int fake_hosts = 1);

}  // namespace supernode::collectives
