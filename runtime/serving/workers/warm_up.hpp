#pragma once
// What a die pays once, paid before the clock starts.

#include "runtime/serving/roles.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

struct WarmUpLimits {
  int vocabulary = 2;  ///< tokens are below this
  int max_length = 1;  ///< longest sequence, tokens
};

/// The largest step of the die's role: for prefill one slice of max_batch_tokens prompt tokens, for decode a token for
/// each of max_decode_batch sequences. The first touch of the memory that steps work in, the exchange's too, is what a
/// first request would pay (tens of ms for a small model); kernels are made when a model is built. The states are
/// thrown away, so no token and no counter of a run changes. Collective over the dies of the instance.
/// @param engine computes for real and on the wall clock: nothing is priced
void warm_up(StepEngine& engine, Role role, const ServingConfig& config, const WarmUpLimits& limits);

}  // namespace supernode::serving
