#pragma once
// What an exchange of given bytes costs on the emulated machine.

#include <cstdint>
#include <span>

#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/phase.hpp"
#include "runtime/emulation/exchange.hpp"

namespace supernode::collectives {

/// When this rank is done with one phase that it starts at `start`; rank r sits on die r. Collective; a rank needs its
/// own row and column of bytes only.
/// @param bytes_to [ranks] @param bytes_from [ranks]
ModelTime modelled_phase(const Communicator& comm, const emulation::Machine& machine, Phase phase,
                         std::span<const std::uint64_t> bytes_to, std::span<const std::uint64_t> bytes_from,
                         ModelTime start);

}  // namespace supernode::collectives
