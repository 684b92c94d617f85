#pragma once
// Collectives with a deadline: a rank that stays away is named, and nobody hangs.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode {

/// A barrier. Collective. @throws TimeoutError naming the silent ranks after `deadline_s`.
void meet(const Communicator& comm, double deadline_s);

/// Each value becomes its largest over ranks. Collective; all ranks pass as many values.
/// @param occasion what the ranks came to, for messages
/// @throws TimeoutError as meet().
void take_largest(const Communicator& comm, std::span<double> values, double deadline_s,
                  const std::string& occasion = "an agreement");

/// Rank 0 gets every rank's bytes, by rank; the others get nothing. Collective. @throws TimeoutError as meet();
/// EnvironmentError when they are 2 GiB or more together.
std::vector<std::vector<std::byte>> gather_bytes(const Communicator& comm, std::span<const std::byte> bytes,
                                                 double deadline_s, const std::string& occasion);

/// Every rank gets its own `each` values of rank 0's. Collective. @param values [ranks x each] on rank 0
/// @throws TimeoutError as meet().
std::vector<std::int64_t> scatter(const Communicator& comm, std::span<const std::int64_t> values, int each,
                                  double deadline_s, const std::string& occasion);

}  // namespace supernode
