#pragma once
// Huge pages for an owner's memory, where the host allows them.

#include <cstddef>
#include <cstdint>
#include <span>

namespace supernode::pool::internal {

/// Advises the system to back `memory` with huge pages as it is touched; whatever it says, the memory works.
void ask_for_huge_pages(std::span<std::byte> memory);

/// Bytes of the mappings of `memory` that huge pages back now; 0 where the system does not tell. Reads
/// /proc/self/smaps.
std::uint64_t huge_page_bytes(std::span<const std::byte> memory);

}  // namespace supernode::pool::internal
