#include "memory_pool/owner/layout.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "memory_pool/owner/bucket_table.hpp"
#include "runtime/core/error.hpp"

namespace supernode::pool::internal {

Layout layout_of(const PoolConfig& config) {
  const std::uint64_t granule = config.granule.value;
  if (granule < 64 || !std::has_single_bit(granule))
    throw UsageError("pool.granule is " + std::to_string(granule) + ": it must be a power of two of at least 64 bytes");
  const std::uint64_t granules = config.capacity.value / granule;
  if (granules == 0)
    throw UsageError("pool.capacity of " + std::to_string(config.capacity.value) +
                     " bytes is less than one pool.granule (" + std::to_string(granule) + ")");
  if (granules >= std::numeric_limits<std::uint32_t>::max() / 64)
    throw UsageError("pool.capacity holds too many granules: make pool.granule larger");
  const std::uint64_t slots = granules * static_cast<std::uint64_t>(std::max(config.index_slots_per_granule, 1));
  const std::uint64_t alignment = std::max<std::uint64_t>(granule, 4096);
  Layout layout;
  layout.buckets = (slots + entries_per_bucket - 1) / entries_per_bucket;
  layout.payload_offset = (layout.buckets * sizeof(Bucket) + alignment - 1) / alignment * alignment;
  layout.capacity = granules * granule;
  layout.header_offset = layout.payload_offset + layout.capacity;
  layout.total_bytes = layout.header_offset + sizeof(OwnerHeader);
  return layout;
}

}  // namespace supernode::pool::internal
