#pragma once
// Shared by the files that build validation rows.

#include <string>
#include <vector>

#include <fmt/format.h>

#include "runtime/emulation/machine/terms.hpp"
#include "runtime/emulation/validation/validation.hpp"

namespace supernode::emulation {

/// A line of an explanation.
inline std::string in_us(const std::string& name, ModelTime time) {
  return fmt::format("{:<34}{:12.2f} us", name, time.us());
}

/// A line for each term, `group` before its name.
inline void append(std::vector<std::string>& lines, const std::string& group, const Terms& terms) {
  for (const Term& term : terms) lines.push_back(in_us(group + term.name, term.time));
}

/// Tables 1, 2, 7 to 11.
void add_hardware_rows(std::vector<ValidationRow>& rows);
/// Tables 3, 4, 5 and the running text.
void add_serving_rows(std::vector<ValidationRow>& rows, const ModelShape& model);

}  // namespace supernode::emulation
