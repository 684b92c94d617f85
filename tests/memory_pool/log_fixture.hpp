#pragma once
// Record logs for tests: a directory, and blocks that name their key and version.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
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

/// A log in a folder of its own that can be closed, damaged and opened again.
class TestLog {
 public:
  static constexpr std::uint64_t limit = 1 << 20, segment_bytes = 1 << 16;

  TestLog() { open(); }
  void open() { log_.emplace(folder_.text(), limit, segment_bytes); }
  void close() { log_.reset(); }
  void restart() {
    close();
    open();
  }

  bool put(std::uint64_t number, std::uint64_t version, std::size_t bytes, pool::NamespaceId name_space = 1) {
    const pool::internal::Name name = name_of(number, name_space);
    const std::vector<std::byte> payload = make_payload(name.key, version, bytes);
    return log_->append(name, payload, pool::internal::checksum_of(payload));
  }
  bool remove(std::uint64_t number, pool::NamespaceId name_space = 1) {
    return log_->remove(name_of(number, name_space));
  }
  bool has(std::uint64_t number, pool::NamespaceId name_space = 1) const {
    return log_->contains(name_of(number, name_space));
  }
  /// As version_of().
  long long version(std::uint64_t number) { return version_of(*log_, number); }
  bool reads(std::uint64_t number, pool::NamespaceId name_space = 1) {
    return log_->read(name_of(number, name_space)).has_value();
  }
  pool::internal::RecordLog& log() { return *log_; }
  const pool::LogStats& stats() const { return log_->stats(); }

  const LogFolder& folder() const { return folder_; }
  /// The oldest segment.
  std::filesystem::path file() const { return folder_.segments().front(); }
  std::uint64_t file_bytes() const { return std::filesystem::file_size(file()); }
  void cut_to(std::uint64_t bytes) const { std::filesystem::resize_file(file(), bytes); }
  /// Bit 4 of a byte of the oldest segment.
  void flip(std::uint64_t at) const {
    std::fstream stream(file(), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<long>(at));
    const char byte = static_cast<char>(stream.get() ^ 16);
    stream.seekp(static_cast<long>(at));
    stream.put(byte);
  }

 private:
  LogFolder folder_;
  std::optional<pool::internal::RecordLog> log_;
};

}  // namespace supernode::test
