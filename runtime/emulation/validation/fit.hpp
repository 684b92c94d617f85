#pragma once
// Fitting the machine's constants to the rows that may be used for it.

#include <span>
#include <string>
#include <vector>

#include "runtime/emulation/validation/validation.hpp"

namespace supernode::emulation {

/// A constant that fitting may change, with what was believed of it before seeing any row: what remains when the row
/// that decides it is left out.
struct FittedConstant {
  Machine Machines::*machine;  ///< whose constant it is
  const char* key;             ///< "section.key" of the machine file
  double prior;
  const char* reason;  ///< for the prior
};
std::span<const FittedConstant> fitted_constants();

/// Minimises sum over `rows` of (error / 1 %)^2 + sum over constants of (ln(value / prior) / ln 2)^2, by damped
/// Gauss-Newton in the logarithms. Deterministic. Rows that are not `fit` are ignored.
Machines refit(const Machines& start, const std::vector<ValidationRow>& rows);

struct LeftOut {
  std::string row;
  ErrorSummary predicted;    ///< over the rows that are predicted with all fit rows in use
  double own_error_pct = 0;  ///< of the row that was left out
};
/// Refits once without each fit row.
std::vector<LeftOut> leave_one_out(const Machines& start, const std::vector<ValidationRow>& rows);

}  // namespace supernode::emulation
