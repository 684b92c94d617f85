#include "runtime/serving/injection.hpp"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {
namespace {

/// Takes the number after `mark` off the text; `fallback` when the mark does not come next.
double take_number(std::string_view& rest, char mark, double fallback, std::string_view whole) {
  if (rest.empty() || rest.front() != mark) return fallback;
  double value = 0;
  const auto [end, error] =
      std::from_chars(rest.data() + 1, rest.data() + rest.size(), value, std::chars_format::fixed);
  if (error != std::errc{} || value < 0 || value > 1e6)
    throw UsageError(fmt::format("--inject '{}': '{}' is followed by no number from 0 to 1000000", whole, mark));
  rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
  return value;
}

}  // namespace

Injection parse_injection(std::string_view text, int cache_ranks) {
  Injection injection;
  const std::size_t end = std::min(text.find_first_of(":@+"), text.size());
  const std::string_view name = text.substr(0, end);
  if (name == "owner_stall")
    injection.kind = InjectionKind::owner_stall;
  else if (name == "owner_loss")
    injection.kind = InjectionKind::owner_loss;
  else
    throw UsageError(
        fmt::format("--inject '{}': known: owner_stall, owner_loss, each [:CACHE RANK][@START][+SECONDS]", text));
  std::string_view rest = text.substr(end);
  const double index = take_number(rest, ':', 0, text);
  injection.start_s = take_number(rest, '@', 0, text);
  injection.duration_s = take_number(rest, '+', 0, text);
  if (!rest.empty()) throw UsageError(fmt::format("--inject '{}': '{}' is not understood", text, rest));
  injection.cache_index = static_cast<int>(index);
  if (injection.cache_index != index || injection.cache_index >= cache_ranks)
    throw UsageError(
        fmt::format("--inject '{}': there is no cache rank {}; serving.cache_ranks is {}", text, index, cache_ranks));
  return injection;
}

std::vector<Injection> parse_injections(const std::vector<std::string>& texts, int cache_ranks) {
  std::vector<Injection> injections;
  for (const std::string& text : texts) injections.push_back(parse_injection(text, cache_ranks));
  std::stable_sort(injections.begin(), injections.end(),
                   [](const Injection& a, const Injection& b) { return a.start_s < b.start_s; });
  return injections;
}

}  // namespace supernode::serving
