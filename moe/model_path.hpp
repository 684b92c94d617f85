#pragma once

#include <string>

namespace supernode::moe {

/// The model that commands take when none is named.
inline constexpr const char* default_model = "configs/models/shakespeare-moe";

/// Where a model folder named `path` is: as given (absolute, or relative to the working directory), else below the
/// installation's share/supernode, else below the source tree this program was built from. @returns `path` when
/// nowhere.
std::string find_model(const std::string& path);

}  // namespace supernode::moe
