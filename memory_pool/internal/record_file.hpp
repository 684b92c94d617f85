#pragma once
// The files of a record log. No MPI.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace supernode::pool::internal {

/// An open file, closed with its owner.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();

  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

/// The names of the files in `folder` outlive the machine's power after this.
void sync_folder(const std::string& folder);

/// A segment. What false means is told by errno.
class RecordFile {
 public:
  RecordFile() = default;
  /// A new file. Not is_open() when the system refuses, or when it is there already.
  static RecordFile create(const std::string& path);
  /// A file that is there: for writing, too, where that is allowed.
  static RecordFile open(const std::string& path);

  bool is_open() const { return static_cast<bool>(file_); }
  std::uint64_t size() const;
  /// False also when the file ends before.
  bool read(std::uint64_t offset, std::span<std::byte> to) const;
  bool write(std::uint64_t offset, std::span<const std::byte> from);
  bool cut(std::uint64_t bytes);
  /// What has been written outlives the machine's power after this.
  bool sync();

 private:
  Descriptor file_;
};

}  // namespace supernode::pool::internal
