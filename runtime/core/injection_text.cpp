#include "runtime/core/injection_text.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/core/text.hpp"

namespace supernode {

UsageError injection_error(std::string_view text, std::string_view why, std::string_view forms) {
  return UsageError(fmt::format("injection '{}'{}{}; known: {}", text, why.empty() ? " unknown" : ": ", why, forms));
}

InjectionText parse_injection_text(std::string_view text, std::string_view forms) {
  constexpr std::string_view separators = "=:@+";
  InjectionText injection;
  std::size_t at = std::min(text.find_first_of(separators), text.size());
  injection.kind = text.substr(0, at);
  // The order is fixed: a colon behind '@' or '+' belongs to nothing.
  for (char previous = 0; at < text.size();) {
    const char separator = text[at];
    const std::size_t end = std::min(text.find_first_of(separators, at + 1), text.size());
    const auto number = parse_number<double>(text.substr(at + 1, end - at - 1));
    if (!number || *number < 0 || *number > 1e9)
      throw injection_error(text, fmt::format("'{}' is followed by no number from 0 to 1000000000", separator), forms);
    const bool in_order = separator == '='   ? previous == 0
                          : separator == '+' ? previous != '+'
                                             : previous != '@' && previous != '+';
    if (!in_order) throw injection_error(text, fmt::format("'{}' is not understood", text.substr(at)), forms);
    if (separator == ':' || separator == '=') injection.numbers.push_back(*number);
    if (separator == '@') injection.start_s = *number, injection.has_start = true;
    if (separator == '+') injection.span_s = *number, injection.has_span = true;
    previous = separator;
    at = end;
  }
  return injection;
}

}  // namespace supernode
