#pragma once
// The way from a pool to what lies behind its face, for the module's own parts and its tests.

#include "memory_pool/pool.hpp"
#include "memory_pool/transport/pool_core.hpp"

namespace supernode::pool::internal {

struct PoolAccess {
  static PoolCore& core(Pool& pool) { return *pool.core_; }
};

}  // namespace supernode::pool::internal
