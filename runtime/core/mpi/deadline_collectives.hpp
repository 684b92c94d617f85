#pragma once
// Collectives with a deadline: a rank that stays away is named, and nobody hangs.

#include <span>
#include <string>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode {

/// A barrier. Collective. @throws TimeoutError naming the silent ranks after `deadline_s`.
void meet(const Communicator& comm, double deadline_s);

/// Each value becomes its largest over ranks. Collective; all ranks pass as many values.
/// @param occasion what the ranks came to, for messages
/// @throws TimeoutError as meet().
void take_largest(const Communicator& comm, std::span<double> values, double deadline_s,
                  const std::string& occasion = "an agreement");

/// Each value becomes its sum over ranks, added up in double. Otherwise as take_largest().
void add_up(const Communicator& comm, std::span<double> values, double deadline_s,
            const std::string& occasion = "an agreement");

}  // namespace supernode
