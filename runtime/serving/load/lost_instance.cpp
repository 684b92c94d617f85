#include "runtime/serving/load/lost_instance.hpp"

#include <fmt/format.h>

namespace supernode::serving {

Json to_json(const std::vector<LostInstance>& lost) {
  Json rows = Json::array();
  for (const LostInstance& one : lost)
    rows.push_back({{"role", one.role}, {"instance", one.instance}, {"reason", one.reason}});
  return rows;
}

std::string lost_text(const Json& results) {
  std::string text;
  if (!results.contains("lost_instances")) return text;
  for (const Json& one : results["lost_instances"])
    text += fmt::format("Lost: {} instance {}: {}\n", one["role"].get<std::string>(), one["instance"].get<int>(),
                        one["reason"].get<std::string>());
  return text;
}

}  // namespace supernode::serving
