#include "runtime/core/file_source.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode {
namespace fs = std::filesystem;

std::string FileSource::read_text(const std::string& name) {
  const std::optional<std::uint64_t> bytes = size(name);
  if (!bytes) throw UsageError(fmt::format("{}: no file '{}'", place(), name));
  std::string text(*bytes, '\0');
  read(name, 0, std::as_writable_bytes(std::span(text)));
  return text;
}

DiskFiles::DiskFiles(const std::string& path, const std::vector<std::string>& endings) : path_(path) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) {
    folder_ = fs::path(path).parent_path().string();
    sizes_[fs::path(path).filename().string()] = fs::file_size(path);
    return;
  }
  folder_ = path;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    const std::string name = entry.path().filename().string();
    const auto ends_so = [&](const std::string& ending) { return name.ends_with(ending); };
    const bool wanted = endings.empty() || std::any_of(endings.begin(), endings.end(), ends_so);
    if (wanted && entry.is_regular_file()) sizes_[name] = entry.file_size();
  }
  if (error) throw UsageError(fmt::format("{}: {}", path, error.message()));
}

std::vector<std::string> DiskFiles::names() const {
  std::vector<std::string> names;
  for (const auto& [name, bytes] : sizes_) names.push_back(name);
  return names;
}

std::optional<std::uint64_t> DiskFiles::size(const std::string& name) const {
  const auto found = sizes_.find(name);
  if (found == sizes_.end()) return std::nullopt;
  return found->second;
}

void DiskFiles::read(const std::string& name, std::uint64_t offset, std::span<std::byte> out) {
  std::ifstream file(fs::path(folder_) / name, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(out.data()), static_cast<std::streamsize>(out.size()));
  if (!file || static_cast<std::size_t>(file.gcount()) != out.size())
    throw EnvironmentError(fmt::format("{}/{}: {} bytes at {} cannot be read", folder_, name, out.size(), offset));
}

}  // namespace supernode
