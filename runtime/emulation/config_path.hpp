#pragma once
// Where the configuration files that ship with the program lie.

#include <string>

namespace supernode::emulation {

/// The directory that holds machines/, models/ and published/: the variable SUPERNODE_CONFIG_DIR, else the source tree
/// the program was built from, else the install prefix.
std::string config_directory();

/// Resolves what a user typed: a `name` with '/' or with the suffix is a path and returned as it is; any other becomes
/// <config_directory()>/<kind>/<name><suffix>. Does not look whether the file exists, except to name the choices.
/// @param kind "machines", "models", "published"; @param suffix ".ini", ".csv", or "/config.json"
/// @throws UsageError listing the files of that kind when a plain name has no file.
std::string config_path(const std::string& kind, const std::string& name, const std::string& suffix);

}  // namespace supernode::emulation
