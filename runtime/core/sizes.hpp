#pragma once
// Byte counts as people write them, and ranges of sizes.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace supernode {

/// "8", "64K", "1.5M", "2G", "1T", with an optional B or iB: IEC, 1 K = 1024. @throws UsageError with the text.
std::uint64_t parse_size(std::string_view text);

/// "225 MiB", "7.5 KiB", "12 B": at most 4 significant digits.
std::string format_size(double bytes);

/// first, 2 first, 4 first, ... as long as they are below last, and then last: what an option MIN:MAX stands for.
/// 1 <= first <= last.
std::vector<std::uint64_t> doubling_sizes(std::uint64_t first, std::uint64_t last);

}  // namespace supernode
