#pragma once
// Points in time as traces write them.

#include <optional>
#include <string_view>

namespace supernode::serving {

/// Seconds since 1970 of "2023-11-16 18:15:46.6805900", "2024-03-04T05:06:07Z", "2024-03-04 05:06:07.08+00:00": a date,
/// a blank or T, a time with or without a fraction, and no zone (taken as UTC), Z, or an offset. Nothing for other
/// text.
std::optional<double> parse_timestamp(std::string_view text);

}  // namespace supernode::serving
