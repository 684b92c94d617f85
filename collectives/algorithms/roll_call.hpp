#pragma once
// Who is missing, once a wait has failed.

#include <span>
#include <string>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

/// When ranks wait for one that stopped, the one that a rank waits for may itself wait for another. Each rank whose
/// wait failed calls this, whatever it waited in; ranks of `comm` that do not call within a second are those that wait
/// for nobody. (However short the deadline was: on a busy host a rank may be late by a good part of that.) The ranks'
/// numbers are those in `comm`. The job must end soon afterwards.
/// @returns "" when all came, else "; silent: rank 3, rank 5"
std::string call_the_roll(const Communicator& comm);

/// A barrier with a deadline. Collective. @throws TimeoutError naming the silent ranks.
void meet(const Communicator& comm, double deadline_s);

/// Each value becomes its largest over ranks. Collective. @throws TimeoutError as meet().
void take_largest(const Communicator& comm, std::span<double> values, double deadline_s);

}  // namespace supernode::collectives
