#include "runtime/core/sizes.hpp"

#include <algorithm>
#include <cctype>
#include <optional>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"

namespace supernode {

std::uint64_t parse_size(std::string_view text) {
  const auto bad = [&] { return UsageError(fmt::format("'{}' is not a size (examples: 4096, 64K, 1.5M, 2G)", text)); };
  constexpr std::string_view letters = "BKMGT";  // each is 1024 of the one before
  const std::size_t end = std::min(text.find_first_not_of("0123456789.eE+-"), text.size());
  const std::optional<double> value = parse_number<double>(text.substr(0, end));
  if (!value || *value < 0) throw bad();
  std::string_view unit = text.substr(end);
  std::size_t power = 0;
  if (!unit.empty()) {
    power = letters.find(static_cast<char>(std::toupper(static_cast<unsigned char>(unit.front()))));
    unit.remove_prefix(1);
    const bool known = unit.empty() || (power > 0 && (unit == "B" || unit == "iB"));
    if (power == std::string_view::npos || !known) throw bad();
  }
  const double bytes = *value * static_cast<double>(std::uint64_t{1} << (10 * power));
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

std::vector<std::uint64_t> doubling_sizes(std::uint64_t first, std::uint64_t last) {
  expect(1 <= first && first <= last, "doubling_sizes: 1 <= first <= last");
  std::vector<std::uint64_t> sizes;
  for (std::uint64_t size = first; size<last; size = size> last / 2 ? last : 2 * size) sizes.push_back(size);
  sizes.push_back(last);
  return sizes;
}

}  // namespace supernode
