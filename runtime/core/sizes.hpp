#pragma once
// Byte counts as people write them.

#include <cstdint>
#include <string>
#include <string_view>

namespace supernode {

/// "8", "64K", "1.5M", "2G", "1T", with an optional B or iB: IEC, 1 K = 1024. @throws UsageError with the text.
std::uint64_t parse_size(std::string_view text);

/// "225 MiB", "7.5 KiB", "12 B": at most 4 significant digits.
std::string format_size(double bytes);

}  // namespace supernode
