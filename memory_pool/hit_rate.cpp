#include "memory_pool/hit_rate.hpp"

#include "memory_pool/client.hpp"
#include "memory_pool/pool.hpp"
#include "runtime/core/random.hpp"

namespace supernode::pool {

HitRate replay_blocks(const Communicator& self, std::span<const std::vector<std::int64_t>> requests,
                      std::uint64_t capacity_blocks) {
  PoolConfig config;
  config.granule = {64};
  // The watermark counts: capacity_blocks fit below it.
  config.evict_above = 1;
  config.evict_ratio = 0;
  config.index_slots_per_granule = 4;  // conflicts of full buckets would hide what capacity does
  config.capacity = {capacity_blocks * config.granule.value};
  Pool pool(self, {0}, config);
  Client client(pool, "trace");
  HitRate rate;
  rate.capacity_blocks = capacity_blocks;
  std::vector<Key> keys;
  for (const std::vector<std::int64_t>& request : requests) {
    keys.clear();
    for (const std::int64_t id : request) keys.push_back({mix64(static_cast<std::uint64_t>(id)), 1});
    const std::vector<Found> found = client.lookup(keys);
    std::size_t hits = 0;
    while (hits < found.size() && found[hits].hit()) ++hits;
    client.flush_touches();
    rate.asked += keys.size();
    rate.hits += hits;
    // Last first: of a chain the head is the most recent, and is the last to go.
    for (std::size_t i = keys.size(); i-- > hits;) client.put(keys[i], std::as_bytes(std::span(&keys[i], 1)));
  }
  rate.evictions = pool.owner_stats().evictions;
  return rate;
}

}  // namespace supernode::pool
