#include "runtime/emulation/config_path.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::emulation {
namespace fs = std::filesystem;

std::string config_directory() {
  if (const char* wanted = std::getenv("SUPERNODE_CONFIG_DIR"); wanted && *wanted) return wanted;
  std::error_code ignored;
  if (fs::is_directory(SUPERNODE_CONFIG_DIR, ignored)) return SUPERNODE_CONFIG_DIR;
  return SUPERNODE_INSTALLED_CONFIG_DIR;
}

std::string config_path(const std::string& kind, const std::string& name, const std::string& suffix) {
  const bool is_path = name.find('/') != std::string::npos || (name.size() >= suffix.size() && name.ends_with(suffix));
  if (is_path) return name;
  const fs::path folder = fs::path(config_directory()) / kind;
  const fs::path file = folder / (name + suffix);
  std::error_code ignored;
  if (!name.empty() && fs::exists(file, ignored)) return file.string();
  std::vector<std::string> known;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string found = entry.path().filename().string();
    if (suffix.starts_with('/') && fs::exists(entry.path() / suffix.substr(1), ignored)) known.push_back(found);
    if (found.ends_with(suffix)) known.push_back(found.substr(0, found.size() - suffix.size()));
  }
  std::sort(known.begin(), known.end());
  std::string list;
  for (const std::string& one : known) list += " " + one;
  throw UsageError(fmt::format("'{}' is not in {}; known:{} (or give a path)", name, folder.string(), list));
}

}  // namespace supernode::emulation
