#pragma once
// What this process occupies.

#include <cstdint>

namespace supernode {

/// Bytes of main memory that this process occupies, pages shared with others counted by its share of them
/// (proportional set size); where the system does not tell that, its whole resident set. About a millisecond.
std::uint64_t resident_bytes();

}  // namespace supernode
