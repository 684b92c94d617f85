#pragma once
// The pool of a run.

#include <memory>

#include "memory_pool/pool.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::serving {

/// Context blocks have bytes, so cache ranks really hold them.
inline bool has_pool(const ServeOptions& options) {
  return options.serving.cache_ranks > 0 && (!options.modelled || options.modelled->payload == Payload::carried);
}

/// Null where the run has none. Collective over `world`.
std::unique_ptr<pool::Pool> make_pool(const Communicator& world, const ServeOptions& options);

/// Tells the cache ranks that all work is done. Rank 0 only. @param pool null: there is none
void stop_pool(pool::Pool* pool);

}  // namespace supernode::serving
