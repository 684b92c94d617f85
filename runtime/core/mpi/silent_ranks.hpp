#pragma once
// Which ranks are missing, once a wait has failed.

#include <string>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode {

/// When ranks wait for one that stopped, the one that a rank waits for may itself wait for another. Each rank whose
/// wait failed calls this, whatever it waited in; ranks of `comm` that do not call it within a second wait for nobody,
/// so they are the ones that stopped. (The second does not depend on how short the deadline was: on a busy host a rank
/// may be late by a good part of it.) The job must end soon afterwards.
/// @returns "" when all ranks called, else "; silent: rank 3, rank 5" with the ranks' numbers in `comm`
std::string find_silent_ranks(const Communicator& comm);

}  // namespace supernode
