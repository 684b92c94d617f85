#include "memory_pool/format/copy.hpp"

#include <cstring>

#include "memory_pool/format/checksum.hpp"

namespace supernode::pool::internal {

/// In small pieces for middle sizes whose source and destination start a few bytes apart within their pages: there
/// glibc copies by one string instruction, which some processors then do at a fifth of their speed. Blocks start at
/// pages, and large buffers of malloc 16 bytes behind.
void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes) {
  constexpr std::size_t page = 4096, piece = 2048, large = 512u << 10, near = 64;
  const std::size_t apart = (reinterpret_cast<std::uintptr_t>(to) - reinterpret_cast<std::uintptr_t>(from)) % page;
  if (bytes < large && apart != 0 && (apart <= near || apart >= page - near))
    for (; bytes > piece; to += piece, from += piece, bytes -= piece) std::memcpy(to, from, piece);
  std::memcpy(to, from, bytes);
}

std::uint64_t copy_with_checksum(std::byte* to, std::span<const std::byte> from) {
#ifdef SUPERNODE_POOL_AVX2
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  if (has_avx2 && from.size() >= streamed_bytes && reinterpret_cast<std::uintptr_t>(to) % 32 == 0)
    return stream_with_checksum_avx2(to, from.data(), from.size());
#endif
  copy_bytes(to, from.data(), from.size());
  return checksum_of(from);
}

}  // namespace supernode::pool::internal
