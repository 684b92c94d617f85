#pragma once
// Files that all ranks of a test see.

#include <filesystem>
#include <string>
#include <system_error>

#include <fmt/format.h>

#include "tests/support/mpi_fixture.hpp"

namespace supernode::test {

/// A folder of all ranks, empty at first, that goes away with the test. Constructor and destructor are collective.
class SharedFolder {
 public:
  /// @param name of the test; another number of ranks has another folder
  explicit SharedFolder(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / fmt::format("supernode-{}-np{}", name, world().size())) {
    if (world().rank() == 0) {
      std::filesystem::remove_all(path_);
      std::filesystem::create_directories(path_);
    }
    world().barrier();
  }
  ~SharedFolder() {
    world().barrier();
    std::error_code ignored;
    if (world().rank() == 0) std::filesystem::remove_all(path_, ignored);
  }
  std::string path() const { return path_.string(); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace supernode::test
