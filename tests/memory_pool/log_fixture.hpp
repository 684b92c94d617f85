#pragma once
// Record logs for tests: a directory, and blocks that name their key and version.

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <unistd.h>

#include "memory_pool/files/record_log.hpp"
#include "memory_pool/format/checksum.hpp"
#include "tests/memory_pool/payload.hpp"
#include "tests/support/catch.hpp"

namespace supernode::test {

/// A directory that goes with the test.
struct LogFolder {
  LogFolder() : path(std::filesystem::temp_directory_path() / ("supernode-log-" + std::to_string(::getpid()))) {
    std::filesystem::remove_all(path);
  }
  ~LogFolder() { std::filesystem::remove_all(path); }
  std::string text() const { return path.string(); }
  std::vector<std::filesystem::path> segments() const {
    std::vector<std::filesystem::path> found;
    for (const auto& file : std::filesystem::directory_iterator(path))
      if (pool::internal::segment_number(file.path().filename().string())) found.push_back(file.path());
    std::sort(found.begin(), found.end());
    return found;
  }
  std::filesystem::path path;
};

inline pool::internal::Name name_of(std::uint64_t number, pool::NamespaceId name_space = 1) {
  return {key_number(number), name_space};
}

inline bool put(pool::internal::RecordLog& log, std::uint64_t number, std::uint64_t version, std::size_t bytes) {
  const pool::internal::Name name = name_of(number);
  const std::vector<std::byte> payload = make_payload(name.key, version, bytes);
  return log.append(name, payload, pool::internal::checksum_of(payload));
}

/// The version that is there; -1 when none is. A wrong byte fails the test.
inline long long version_of(pool::internal::RecordLog& log, std::uint64_t number) {
  const auto payload = log.read(name_of(number));
  if (!payload) return -1;
  const long long version = check_payload(name_of(number).key, payload->bytes);
  CHECK(version >= 0);
  return version;
}

}  // namespace supernode::test
