#include "moe/buffer.hpp"

#include <cstdlib>

#include <sys/mman.h>

namespace supernode::moe::internal {

void* allocate_block(std::size_t bytes) {
  constexpr std::size_t line = 64, huge = std::size_t{2} << 20;
  // A cache is read a row of each token at a time, every row on another small page.
  const std::size_t alignment = bytes >= 2 * huge ? huge : line;
  void* block = nullptr;
  if (::posix_memalign(&block, alignment, bytes == 0 ? line : bytes) != 0) throw std::bad_alloc();
  if (alignment == huge) ::madvise(block, bytes, MADV_HUGEPAGE);  // a wish: without it all is slower only
  return block;
}

void free_block(void* block) noexcept { std::free(block); }

}  // namespace supernode::moe::internal
