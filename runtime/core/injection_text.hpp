#pragma once
// The grammar of injected faults (`--inject`), the same for every command: what happens, to whom, when, how long.

#include <string_view>
#include <vector>

#include "runtime/core/error.hpp"

namespace supernode {

/// `KIND[:NUMBER]...[@START][+SPAN]`, as in "owner_loss:1@2.5+10" or "stall:1:300:5". The first colon may be a '='.
struct InjectionText {
  std::string_view kind;
  std::vector<double> numbers;  ///< those behind colons, in their order
  double start_s = 0;           ///< behind '@'
  double span_s = 0;            ///< behind '+'
  bool has_start = false, has_span = false;
};

/// Takes an injection apart; what its kind and numbers mean is its reader's. `text` outlives the result.
/// @param forms what the command knows, for the message
/// @throws UsageError injection_error() for a separator without a number from 0 to 1e9, or out of order.
InjectionText parse_injection_text(std::string_view text, std::string_view forms);

/// "injection '<text>': <why>; known: <forms>", for whoever throws it. Without a `why` the whole is unknown.
UsageError injection_error(std::string_view text, std::string_view why, std::string_view forms);

}  // namespace supernode
