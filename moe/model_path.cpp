#include "moe/model_path.hpp"

#include <filesystem>
#include <system_error>

#include "runtime/core/error.hpp"

namespace supernode::moe {

std::string find_model(const std::string& path) {
  namespace fs = std::filesystem;
  if (path.empty()) throw UsageError("--model: a folder or an HDF5 file is needed");
  std::error_code ignored;
  if (fs::exists(path, ignored) || fs::path(path).is_absolute()) return path;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  for (const fs::path& root :
       {program.parent_path().parent_path() / "share" / "supernode", fs::path(SUPERNODE_SOURCE_DIR)})
    if (const fs::path candidate = root / path; fs::exists(candidate, ignored)) return candidate.string();
  return path;
}

}  // namespace supernode::moe
