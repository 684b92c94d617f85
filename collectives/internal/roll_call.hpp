#pragma once
// Who is missing, once a wait has failed.

#include <string>

#include "runtime/core/communicator.hpp"

namespace supernode::collectives {

/// When ranks wait for one that stopped, the one that a rank waits for may itself wait for another. Each rank whose
/// wait failed calls this; ranks that do not call within `seconds` are those that do not wait. Nothing on `comm` may be
/// used afterwards.
/// @returns "" when all came, else "; silent: rank 3, rank 5"
std::string call_the_roll(const Communicator& comm, double seconds);

}  // namespace supernode::collectives
