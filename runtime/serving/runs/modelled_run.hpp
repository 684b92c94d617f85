#pragma once
// What runs on the modelled clock have in common, whatever computes.

#include "memory_pool/pool.hpp"
#include "runtime/serving/fleet/modelled_fleet.hpp"
#include "runtime/serving/server.hpp"
#include "runtime/serving/workers/modelled_engine.hpp"

namespace supernode::serving {

/// Rank 0's part of the run. @pre options.modelled @param shared_pool null where the run has none (has_pool)
ServeOutcome coordinate_modelled(const Communicator& control, const ServeOptions& options, pool::Pool* shared_pool,
                                 std::vector<Request> requests);

/// Where payload is carried: blocks of the directory that an owner of the real pool can hold in any case.
/// @pre options.modelled, and has_pool() @throws UsageError when there are none
std::int64_t blocks_really_held(const ServeOptions& options);

/// What is priced on the dies of this rank's instance. @pre a prefill or decode rank
ModelledInstance modelled_instance(const ServeOptions& options, const Part& part);

}  // namespace supernode::serving
