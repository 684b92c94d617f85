#pragma once
// Shared by the files that build validation rows; not for other modules.

#include <string>
#include <vector>

#include <fmt/format.h>

#include "runtime/emulation/terms.hpp"
#include "runtime/emulation/validation/validation.hpp"

namespace supernode::emulation::internal {

inline std::string in_us(const std::string& name, ModelTime time) {
  return fmt::format("{:<28}{:12.2f} us", name, time.us());
}

inline void append(std::vector<std::string>& lines, const std::string& group, const Terms& terms) {
  for (const auto& [name, time] : terms.parts()) lines.push_back(in_us(group + name, time));
}

/// Tables 1, 2, 7 to 11.
void add_hardware_rows(std::vector<Row>& rows);
/// Tables 3, 4, 5 and the running text.
void add_serving_rows(std::vector<Row>& rows, const ModelShape& model);

}  // namespace supernode::emulation::internal
