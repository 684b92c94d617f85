#pragma once
// Whole files in and out, with errors that name the file.

#include <string>
#include <string_view>

#include "runtime/core/new_file.hpp"

namespace supernode {

/// The whole file; pipes and devices too. @throws UsageError naming the path and the system's reason (missing, a
/// directory, not readable).
std::string read_file(const std::string& path);

/// Writes a file as NewFile does: under its name it is whole. @throws as NewFile; nothing is left then, and a file that
/// was to be replaced is untouched.
void write_file(const std::string& path, std::string_view text, IfExists if_exists = IfExists::refuse);

}  // namespace supernode
