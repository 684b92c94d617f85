#pragma once
// The checksum of payloads, in memory and in files.

#include <cstddef>
#include <cstdint>
#include <span>

namespace supernode::pool::internal {

/// XXH3-64, by AVX2 where the processor has it. The value does not depend on the processor.
std::uint64_t checksum_of(std::span<const std::byte> payload);

#ifdef SUPERNODE_POOL_AVX2
/// The same, compiled for AVX2: only for processors that have it.
std::uint64_t checksum_avx2(const void* data, std::size_t bytes);
#endif

}  // namespace supernode::pool::internal
