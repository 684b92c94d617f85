// Compiled for AVX2, so nothing but these functions may be here: what the linker shares must run everywhere.
// The installed library is built for the oldest x86-64 and hashes at a third of the speed.
#define XXH_INLINE_ALL
#include <cstring>

#include <immintrin.h>
#include <xxhash.h>

#include "memory_pool/format/checksum.hpp"
#include "memory_pool/format/copy.hpp"

namespace supernode::pool::internal {

std::uint64_t checksum_avx2(const void* data, std::size_t bytes) { return XXH3_64bits(data, bytes); }

// Pieces of a page: the sum brings one to the first cache, and while the stores of the last one are under way to memory
// the next is summed. So both together take little longer than the stores alone; one after the other, half as long
// again.
std::uint64_t stream_with_checksum_avx2(std::byte* to, const std::byte* from, std::size_t bytes) {
  constexpr std::size_t piece = 4096;
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (; bytes >= piece; to += piece, from += piece, bytes -= piece) {
    XXH3_64bits_update(&state, from, piece);
    for (std::size_t at = 0; at < piece; at += 128) {
      const auto* source = reinterpret_cast<const __m256i_u*>(from + at);
      auto* destination = reinterpret_cast<__m256i*>(to + at);
      const __m256i first = _mm256_loadu_si256(source), second = _mm256_loadu_si256(source + 1);
      const __m256i third = _mm256_loadu_si256(source + 2), fourth = _mm256_loadu_si256(source + 3);
      _mm256_stream_si256(destination, first);
      _mm256_stream_si256(destination + 1, second);
      _mm256_stream_si256(destination + 2, third);
      _mm256_stream_si256(destination + 3, fourth);
    }
  }
  XXH3_64bits_update(&state, from, bytes);
  std::memcpy(to, from, bytes);
  _mm_sfence();
  return XXH3_64bits_digest(&state);
}

}  // namespace supernode::pool::internal
