#include "runtime/core/cpu_quota.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "runtime/core/text.hpp"

namespace supernode {
namespace {

namespace fs = std::filesystem;

/// "" when it cannot be read.
std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string_view first_line(std::string_view text) { return trim(text.substr(0, text.find('\n'))); }

std::optional<double> ratio(std::string_view quota, std::string_view period) {
  const auto microseconds = parse_number<double>(first_line(quota)), span = parse_number<double>(first_line(period));
  if (!microseconds || !span || !(*microseconds > 0) || !(*span > 0)) return std::nullopt;
  return *microseconds / *span;
}

std::optional<double> quota_at(const fs::path& group) {
  if (const auto quota = parse_cpu_max(text_of(group / "cpu.max"))) return quota;
  return parse_cfs_quota(text_of(group / "cpu.cfs_quota_us"), text_of(group / "cpu.cfs_period_us"));
}

}  // namespace

std::optional<double> parse_cpu_max(std::string_view text) {
  const auto words = split_words(first_line(text));
  return words.size() == 2 ? ratio(words[0], words[1]) : std::nullopt;
}

std::optional<double> parse_cfs_quota(std::string_view quota, std::string_view period) { return ratio(quota, period); }

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  const auto take = [&](std::optional<double> quota) {
    if (quota) least = std::min(least.value_or(*quota), *quota);
  };
  const std::string groups = text_of(root / "proc/self/cgroup");
  // A line is "<number>:<controllers>:<path>"; no controllers means version 2.
  for (LineReader lines(groups, {}); lines.next();) {
    const std::string_view line = lines.line();
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    std::vector<std::string> mounts;
    if (controllers.empty()) mounts = {"sys/fs/cgroup", "sys/fs/cgroup/unified"};
    const auto names = split(controllers, ',');
    if (std::find(names.begin(), names.end(), "cpu") != names.end())
      mounts = {"sys/fs/cgroup/" + std::string(controllers), "sys/fs/cgroup/cpu"};
    for (const std::string& mount : mounts) {
      fs::path group = fs::path(line.substr(second + 1)).relative_path();
      for (;; group = group.parent_path()) {
        take(quota_at(root / mount / group));
        if (group.empty()) break;
      }
    }
  }
  return least;
}

}  // namespace supernode
