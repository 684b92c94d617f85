#pragma once
// An open file of the operating system.

#include <utility>

namespace supernode {

/// Owns a file descriptor; negative: none. Move-only.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor();

  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }
  /// Closes it now. @returns false, with errno, when the system reports an error that a write left behind.
  bool close();

 private:
  int number_ = -1;
};

}  // namespace supernode
