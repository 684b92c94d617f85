#include "runtime/core/config_path.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode {
namespace fs = std::filesystem;

std::string config_directory() {
  if (const char* wanted = std::getenv("SUPERNODE_CONFIG_DIR"); wanted && *wanted) return wanted;
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  for (const fs::path& folder :
       {program.parent_path().parent_path() / "share" / "supernode" / "configs", fs::path(SUPERNODE_SOURCE_CONFIGS)})
    if (fs::is_directory(folder, ignored)) return folder.string();
  return SUPERNODE_INSTALLED_CONFIGS;
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

std::string find_model(const std::string& path) {
  constexpr std::string_view shipped = "configs/";
  if (path.empty()) throw UsageError("--model: a folder or an HDF5 file is needed");
  std::error_code ignored;
  if (fs::exists(path, ignored) || !path.starts_with(shipped)) return path;
  const fs::path candidate = fs::path(config_directory()) / path.substr(shipped.size());
  return fs::exists(candidate, ignored) ? candidate.string() : path;
}

}  // namespace supernode
