#pragma once
// Where things lie in an owner's window. All ranks compute the same layout from the configuration.

#include <cstdint>

#include "memory_pool/config.hpp"

namespace supernode::pool::internal {

/// The last bytes of an owner's window.
struct alignas(64) OwnerHeader {
  std::uint64_t incarnation = 0;  ///< drawn at each start; 0: this memory has been lost
};

/// Offsets in bytes from the start of the window: [index: buckets][payload][header].
struct Layout {
  std::uint64_t buckets = 0;         ///< in the index, 1 KiB each
  std::uint64_t payload_offset = 0;  ///< a multiple of the granule and of 4 KiB
  std::uint64_t capacity = 0;        ///< payload bytes, a multiple of the granule
  std::uint64_t header_offset = 0;
  std::uint64_t total_bytes = 0;
};

/// @throws UsageError when the granule is no power of two, or the capacity holds no granule or too many.
Layout layout_of(const PoolConfig& config);

}  // namespace supernode::pool::internal
