#pragma once
// The one place that knows which Catch2 this is, and where tests find data.

#include <filesystem>
#include <string>

#include <catch2/catch.hpp>

namespace supernode::test {

/// A file of the repository, by its path from the root.
inline std::string source_path(const std::string& relative) { return std::string(SUPERNODE_SOURCE_DIR "/") + relative; }

/// A file of the optional data folder, or "" with a message when it is absent: the test then returns (agreed on all
/// ranks, since all see the same file system).
inline std::string shared_path(const std::string& relative) {
  const std::string path = std::string(SUPERNODE_SHARED_DIR "/") + relative;
  if (std::filesystem::exists(path)) return path;
  WARN("skipped: " << path << " is not here");
  return {};
}

}  // namespace supernode::test
