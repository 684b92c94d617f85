#pragma once
// The one place that knows which Catch2 this is, and where tests find data.

#include <filesystem>
#include <string>

#if __has_include(<catch2/catch_test_macros.hpp>)  // Catch2 3; not catch_all.hpp, whose Contains is for ranges
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using Catch::Approx;
namespace Catch {
namespace Matchers {
inline auto Contains(const std::string& part) { return ContainsSubstring(part); }
}  // namespace Matchers
using Matchers::Contains;
using Matchers::StartsWith;
}  // namespace Catch
#else
#include <catch2/catch.hpp>
#endif

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
