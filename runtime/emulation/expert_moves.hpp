#pragma once
// What it costs to move weights of experts from die to die beside a step.

#include <span>
#include <vector>

#include "runtime/emulation/die_step.hpp"
#include "runtime/emulation/machine/machine.hpp"

namespace supernode::emulation {

/// How long the link of each die is busy with the weights that it sends and receives in a step: it does both at once, at
/// the rates and after the latency that writes to another die's memory have (machine/links.hpp), and one transfer after
/// the other. Dies do not disturb one another: plans spread transfers over them.
/// @param dies of the machine, one for each step @param steps their `transfers` are looked at
/// @returns [dies]; empty where nothing moves
/// @throws std::invalid_argument for a transfer to a die that is not there
std::vector<ModelTime> expert_move_times(const Machine& machine, std::span<const int> dies,
                                         std::span<const DieStep> steps);

}  // namespace supernode::emulation
