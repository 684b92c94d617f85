#pragma once
// Where the files that ship with the program lie: machines, models, traces, published tables, deployments.

#include <string>

namespace supernode {

/// The model that commands take when none is named.
inline constexpr const char* default_model = "configs/models/shakespeare-moe";

/// The folder that holds machines/, models/, traces/, published/. In this order: the variable SUPERNODE_CONFIG_DIR; the
/// folder beside an installed program (bin/../share/supernode/configs); the source tree that the program was built
/// from; the prefix that it was to be installed under.
std::string config_directory();

/// Resolves what a user typed: a `name` with '/' or with the suffix is a path and returned as it is; any other becomes
/// <config_directory()>/<kind>/<name><suffix>. Does not look whether the file exists, except to name the choices.
/// @param kind "machines", "models", "published"; @param suffix ".ini", ".csv", or "/config.json"
/// @throws UsageError listing the files of that kind when a plain name has no file.
std::string config_path(const std::string& kind, const std::string& name, const std::string& suffix);

/// Where a model named `path` is: as given (absolute, or relative to the working directory); else, for a path that
/// begins with "configs/", below config_directory(). @returns `path` when nowhere, so that whoever opens it names it.
/// @throws UsageError for an empty path.
std::string find_model(const std::string& path);

}  // namespace supernode
