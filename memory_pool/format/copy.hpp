#pragma once
// Copies between a caller's memory and an owner's.

#include <cstddef>
#include <cstdint>
#include <span>

namespace supernode::pool::internal {

/// memcpy without its slow case: see copy.cpp.
void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes);

/// Copies `from` to `to`, and returns its checksum (checksum.hpp), of what was read, in the same pass. From
/// `streamed_bytes` on the stores go around the caches, where the processor can: the block's readers are other ranks.
/// They are visible to others after a fence.
std::uint64_t copy_with_checksum(std::byte* to, std::span<const std::byte> from);
constexpr std::size_t streamed_bytes = 64u << 10;

#ifdef SUPERNODE_POOL_AVX2
/// For processors with AVX2; `to` is a multiple of 32.
std::uint64_t stream_with_checksum_avx2(std::byte* to, const std::byte* from, std::size_t bytes);
#endif

}  // namespace supernode::pool::internal
