#include "collectives/benchmark/injection.hpp"

#include <charconv>
#include <vector>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::collectives {
namespace {

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t colon = text.find(':');
    parts.push_back(text.substr(0, colon));
    if (colon == std::string_view::npos) return parts;
    text.remove_prefix(colon + 1);
  }
}

template <class T>
bool read(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 0 && value < T(1e9);
}

}  // namespace

Injection parse_injection(std::string_view text, int ranks) {
  Injection injection;
  if (text.empty()) return injection;
  const auto parts = split(text);
  std::size_t next = 1;
  const auto take = [&](auto& value) { return next < parts.size() && read(parts[next++], value); };
  bool good = true;
  if (parts[0] == "stall") {
    injection.kind = Injection::Kind::stall;
    good = take(injection.rank) && take(injection.ms);
  } else {
    injection.kind = parts[0] == "stop" ? Injection::Kind::stop : Injection::Kind::corrupt;
    good = (parts[0] == "stop" || parts[0] == "corrupt") && take(injection.rank);
  }
  if (good && next < parts.size()) good = take(injection.iteration);
  if (!good || next != parts.size())
    throw UsageError(fmt::format(
        "injection '{}' unknown; known: stall:RANK:MS[:ITERATION], stop:RANK[:ITERATION], corrupt:RANK[:ITERATION]",
        text));
  if (injection.rank >= ranks) throw UsageError(fmt::format("injection '{}': ranks are 0 to {}", text, ranks - 1));
  return injection;
}

}  // namespace supernode::collectives
