#pragma once
// A file as a range of memory, read-only.

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/file_source.hpp"

namespace supernode::moe {

/// A file's bytes in memory. Pages of a file on disk are read when touched, so a rank pays only for the tensors it
/// uses, and ranks of one host share them. Pieces of a source are read when they are asked for, into memory of this
/// process.
class MappedFile {
 public:
  /// @throws UsageError naming the path and the system's reason.
  explicit MappedFile(const std::string& path);
  /// @throws UsageError when there is no such file; EnvironmentError when the memory cannot be had.
  MappedFile(std::shared_ptr<FileSource> source, const std::string& name);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  /// To be called before [offset, offset + length) of bytes() is read. @throws as FileSource::read
  void need(std::size_t offset, std::size_t length) const;

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  // For a source only:
  std::shared_ptr<FileSource> source_;
  std::string name_;
  mutable std::vector<bool> here_;  ///< by piece
};

}  // namespace supernode::moe
