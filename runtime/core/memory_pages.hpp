#pragma once
// The pages behind a stretch of memory: whether they are huge, whether they exist, and whose they are.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace supernode {

/// Advises the system to back `memory` with huge pages as it is touched. It is a wish: whatever the system says, the
/// memory works.
void ask_for_huge_pages(std::span<std::byte> memory);

/// Bytes of the mappings of `memory` that huge pages back now; 0 where the system does not tell. Reads
/// /proc/self/smaps.
std::uint64_t huge_page_bytes(std::span<const std::byte> memory);

/// Makes all pages of `memory` exist now. The bytes of pages that exist already may become zero: call it on fresh
/// memory. Costs about what writing it once does.
/// @returns false when the system has no page left for them (a full file system of shared memory). Touching the memory
/// would end the process by SIGBUS then; this does not.
bool take_pages(std::span<std::byte> memory);

/// The file that is mapped at `place`, also after it was unlinked; empty for memory without a file, or where the system
/// does not tell. Reads /proc/self/maps.
std::string file_behind(const std::byte* place);

}  // namespace supernode
