#include "runtime/serving/runs/run_pool.hpp"

#include <numeric>
#include <vector>

#include "runtime/core/log.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {

std::unique_ptr<pool::Pool> make_pool(const Communicator& world, const ServeOptions& options) {
  if (!has_pool(options)) return nullptr;
  std::vector<int> owners(static_cast<std::size_t>(options.serving.cache_ranks));
  std::iota(owners.begin(), owners.end(), cache_rank(options.serving, 0));
  return std::make_unique<pool::Pool>(world, owners, options.pool);
}

void stop_pool(pool::Pool* pool) {
  if (pool && !pool->stop()) log(LogLevel::warning, "a cache rank did not take the order to stop");
}

}  // namespace supernode::serving
