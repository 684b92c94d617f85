#pragma once
// The option exchange.rules: by which rules "auto" takes an algorithm. rule_file.hpp reads them.

#include <string>

#include "runtime/core/options.hpp"

namespace supernode::collectives {

struct SelectionOptions {
  std::string rules = "default";  ///< a file, or "default": the one that ships
};

/// Adds exchange.rules.
void describe(OptionTable& table, SelectionOptions& options);

}  // namespace supernode::collectives
