#include "memory_pool/format/checksum.hpp"

#include <xxhash.h>

namespace supernode::pool::internal {

std::uint64_t checksum_of(std::span<const std::byte> payload) {
#ifdef SUPERNODE_POOL_AVX2
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  if (has_avx2) return checksum_avx2(payload.data(), payload.size());
#endif
  return XXH3_64bits(payload.data(), payload.size());
}

}  // namespace supernode::pool::internal
