#pragma once
// A run without a model: schedule, routing, messages and the modelled clock, without arithmetic.

#include "runtime/serving/server.hpp"

namespace supernode::serving {

/// Serves `requests`, or the steady load of options.modelled, on the modelled machine. Collective over `world`, whose
/// size is world_size(). @pre options.modelled @throws as serve()
ServeOutcome run_shape(const Communicator& world, const ServeOptions& options, std::vector<Request> requests,
                       StepLog* steps);

}  // namespace supernode::serving
