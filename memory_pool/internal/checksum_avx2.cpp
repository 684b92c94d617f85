// Compiled for AVX2, so nothing but this function may be here: what the linker shares must run everywhere.
// The installed library is built for the oldest x86-64 and hashes at a third of the speed.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "memory_pool/internal/checksum.hpp"

namespace supernode::pool::internal {

std::uint64_t checksum_avx2(const void* data, std::size_t bytes) { return XXH3_64bits(data, bytes); }

}  // namespace supernode::pool::internal
