#pragma once
// The processor time that a container or a batch system grants (Linux control groups).

#include <filesystem>
#include <optional>
#include <string_view>

namespace supernode {

/// Processors by the text of a cpu.max (version 2): "150000 100000" is 1.5; nothing for "max 100000" or another text.
std::optional<double> parse_cpu_max(std::string_view text);

/// Processors by cpu.cfs_quota_us and cpu.cfs_period_us (version 1); nothing for a quota of -1 or another text.
std::optional<double> parse_cfs_quota(std::string_view quota, std::string_view period);

/// The least quota of this process's control group and those around it; nothing where there is none. In a container the
/// group's path may be the host's: then the root of the mounted hierarchy counts.
/// @param root of the file system, for tests
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

}  // namespace supernode
