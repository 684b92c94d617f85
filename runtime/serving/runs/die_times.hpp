#pragma once
// How long the dies of a run took for their steps, from what they counted. Pure.

#include <vector>

#include "runtime/serving/serving_config.hpp"
#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

/// WorkerStatistics::step_times with the places of the dies, by rank.
std::vector<DieSteps> die_steps(const ServingConfig& config, const WorkerStatistics& counts);

}  // namespace supernode::serving
