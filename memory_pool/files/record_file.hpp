#pragma once
// The files of a record log: read and written through the page cache, or past it (O_DIRECT). No MPI.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>

#include "runtime/core/file_descriptor.hpp"

namespace supernode::pool::internal {

/// The names of the files in `folder` outlive the machine's power after this. False when the system reports an error.
bool sync_folder(const std::string& folder);

/// What transfers past the page cache go through: taken at the first use, then kept. One huge page where the host has
/// them: a device takes it as one piece, and pages of 4 KiB as so many.
class DirectBuffer {
 public:
  static constexpr std::size_t size_bytes = 2u << 20;
  std::span<std::byte> bytes();

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
};

/// Whether the file system of `path`, a file that is there, lets it be opened for transfers past the page cache.
bool allows_direct(const std::string& path);

/// Whether a file is opened for transfers past the page cache, too.
enum class Direct { no, if_possible };

/// A segment. What false means is told by errno.
class RecordFile {
 public:
  RecordFile() = default;
  /// A new file. Not is_open() when the system refuses, or when it is there already.
  static RecordFile create(const std::string& path, Direct direct);
  /// A file that is there: for writing, too, where that is allowed.
  static RecordFile open(const std::string& path, Direct direct);

  bool is_open() const { return static_cast<bool>(file_); }
  std::uint64_t size() const;
  /// False also when the file ends before.
  bool read(std::uint64_t offset, std::span<std::byte> to) const;
  bool write(std::uint64_t offset, std::span<const std::byte> from);

  /// Whether the following two go past the page cache. They go through it where it is false, and from the first
  /// transfer on that the system refuses as not aligned enough, or altogether.
  bool direct() const { return static_cast<bool>(direct_); }
  bool read_direct(std::uint64_t offset, std::span<std::byte> to, DirectBuffer& buffer);
  /// `head`, `body` and zeros, which fill whole pages of record_alignment. `offset`: a multiple of it; head fits into
  /// the buffer.
  bool write_direct(std::uint64_t offset, std::span<const std::byte> head, std::span<const std::byte> body,
                    DirectBuffer& buffer);

  bool cut(std::uint64_t bytes);
  /// What has been written outlives the machine's power after this.
  bool sync();

 private:
  FileDescriptor file_, direct_;
};

}  // namespace supernode::pool::internal
