#include "collectives/benchmark/injection.hpp"

#include <cmath>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/injection_text.hpp"

namespace supernode::collectives {

namespace {

constexpr std::string_view forms = "stall:RANK:MS[:ITERATION], stop:RANK[:ITERATION], corrupt:RANK[:ITERATION]";

}  // namespace

Injection parse_injection(std::string_view text, int ranks) {
  Injection injection;
  if (text.empty()) return injection;
  const InjectionText parts = parse_injection_text(text, forms);
  const bool is_stall = parts.kind == "stall", known = is_stall || parts.kind == "stop" || parts.kind == "corrupt";
  const std::size_t least = is_stall ? 2 : 1, given = parts.numbers.size();  // the rank, and the milliseconds
  const auto is_whole = [](double number) { return number == std::floor(number); };
  const bool whole =
      given >= least && is_whole(parts.numbers.front()) && is_whole(parts.numbers.back() * (given > least));
  if (!known || !whole || given > least + 1 || parts.has_start || parts.has_span)
    throw injection_error(text, "", forms);
  injection.kind = is_stall               ? Injection::Kind::stall
                   : parts.kind == "stop" ? Injection::Kind::stop
                                          : Injection::Kind::corrupt;
  injection.rank = static_cast<int>(parts.numbers[0]);
  if (is_stall) injection.ms = parts.numbers[1];
  if (given > least) injection.iteration = static_cast<int>(parts.numbers[least]);
  if (injection.rank >= ranks) throw injection_error(text, fmt::format("ranks are 0 to {}", ranks - 1), forms);
  return injection;
}

}  // namespace supernode::collectives
