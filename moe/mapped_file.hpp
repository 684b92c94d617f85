#pragma once
// A file mapped into memory, read-only.

#include <cstddef>
#include <span>
#include <string>

namespace supernode::moe {

/// Pages are read when touched, so a rank pays only for the tensors it uses, and ranks of one host share them.
class MappedFile {
 public:
  /// @throws UsageError naming the path and the system's reason.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace supernode::moe
