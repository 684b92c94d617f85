#pragma once
// What results say of an instance that was lost while others went on.

#include <string>
#include <vector>

#include "runtime/core/json.hpp"

namespace supernode::serving {

/// An instance that the run went on without, because one of its dies did not report.
struct LostInstance {
  std::string role;  ///< "prefill" or "decode"
  int instance = 0;
  std::string reason;  ///< a line that names the die; its requests failed with it
};

/// As results have them: `lost_instances`.
Json to_json(const std::vector<LostInstance>& lost);
/// A line for each of the results; none in most.
std::string lost_text(const Json& results);

}  // namespace supernode::serving
