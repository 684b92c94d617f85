#pragma once
// Whole files in and out, with errors that name the file.

#include <string>
#include <string_view>

namespace supernode {

/// The whole file. @throws UsageError naming the path and the system's reason (missing, a directory, not readable).
std::string read_file(const std::string& path);

/// Whether a new file may be made at `path`, to be asked before long work. @throws UsageError when it exists,
/// EnvironmentError when its folder is missing or may not be written to.
void check_new_file(const std::string& path);

/// Writes a new file. @throws UsageError when `path` exists already, EnvironmentError when it cannot be written in full
/// (the partial file is removed).
void write_new_file(const std::string& path, std::string_view text);

/// Writes a file that may exist. Whoever reads it, also after a crash, finds the old text or the new one in full.
/// @throws EnvironmentError when it cannot be written; the old file is then untouched.
void replace_file(const std::string& path, std::string_view text);

}  // namespace supernode
