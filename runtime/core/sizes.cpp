#include "runtime/core/sizes.hpp"

#include <cctype>
#include <charconv>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode {

std::uint64_t parse_size(std::string_view text) {
  const auto bad = [&] { return UsageError(fmt::format("'{}' is not a size (examples: 4096, 64K, 1.5M, 2G)", text)); };
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || !(value >= 0)) throw bad();
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  int shift = 0;
  if (!unit.empty()) {
    switch (std::toupper(static_cast<unsigned char>(unit.front()))) {
      case 'K':
        shift = 10;
        break;
      case 'M':
        shift = 20;
        break;
      case 'G':
        shift = 30;
        break;
      case 'T':
        shift = 40;
        break;
      case 'B':
        break;
      default:
        throw bad();
    }
    const bool plain_bytes = shift == 0;
    unit.remove_prefix(1);
    if (!plain_bytes && (unit == "B" || unit == "iB")) unit = {};
    if (!unit.empty()) throw bad();
  }
  const double bytes = value * static_cast<double>(std::uint64_t{1} << shift);
  if (bytes >= 0x1p63) throw bad();
  return static_cast<std::uint64_t>(bytes);
}

std::string format_size(double bytes) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(units)) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.4g} {}", bytes, units[unit]);
}

}  // namespace supernode
