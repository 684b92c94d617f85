#include "runtime/core/buffer.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "runtime/core/memory_pages.hpp"

namespace supernode::internal {

void* allocate_block(std::size_t bytes, std::size_t alignment, Pages pages) {
  constexpr std::size_t huge_page = std::size_t{2} << 20;
  const bool huge = pages == Pages::huge && bytes >= 2 * huge_page;
  if (huge) alignment = std::max(alignment, huge_page);
  void* block = nullptr;
  if (::posix_memalign(&block, alignment, std::max(bytes, alignment)) != 0) throw std::bad_alloc();
  if (huge) ask_for_huge_pages({static_cast<std::byte*>(block), bytes});
  return block;
}

void free_block(void* block) noexcept { std::free(block); }

}  // namespace supernode::internal
