#pragma once
// Faults that a benchmark makes on purpose, to see what becomes of them. Pure.

#include <string>
#include <string_view>

namespace supernode::collectives {

/// What one rank does wrong in one round.
struct Injection {
  enum class Kind {
    none,
    stall,    ///< comes late by `ms`
    stop,     ///< never comes
    corrupt,  ///< changes one element that it sends back
  };
  Kind kind = Kind::none;
  int rank = 0;
  double ms = 0;
  int iteration = 0;  ///< timed round, from 0; each algorithm has its own
};

/// "stall:RANK:MS[:ITERATION]", "stop:RANK[:ITERATION]", "corrupt:RANK[:ITERATION]", "" for none.
/// @throws UsageError with the forms, and for a rank outside [0, ranks)
Injection parse_injection(std::string_view text, int ranks);

}  // namespace supernode::collectives
