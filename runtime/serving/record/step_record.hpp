#pragma once
// The record of a die's step as bytes: how it travels to the die that prices the step, and how it is
// kept. Pure.

#include <cstddef>
#include <span>
#include <vector>

#include "runtime/emulation/die_step.hpp"
#include "runtime/serving/load/run_time.hpp"

namespace supernode::serving {

/// A die's step with its start.
struct StartedStep {
  RunTime start{};
  emulation::DieStep step;
};

std::vector<std::byte> encode_step(const StartedStep& step);
/// @throws EnvironmentError saying what is wrong: too short, too long, another version.
StartedStep decode_step(std::span<const std::byte> bytes);

}  // namespace supernode::serving
