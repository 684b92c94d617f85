#pragma once
// Read-only files by name, wherever their bytes lie: on disk here, elsewhere in pooled memory.

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace supernode {

/// Local; not thread-safe.
class FileSource {
 public:
  virtual ~FileSource() = default;
  /// What it is, for messages: a path, or a model's name and that it is in the pool.
  virtual std::string place() const = 0;
  /// All files, in alphabetical order.
  virtual std::vector<std::string> names() const = 0;
  /// Bytes of a file; empty when there is none of that name.
  virtual std::optional<std::uint64_t> size(const std::string& name) const = 0;
  /// Fills `out` with the bytes from `offset` on, which must exist. @throws EnvironmentError, naming place and file,
  /// when they cannot be read.
  virtual void read(const std::string& name, std::uint64_t offset, std::span<std::byte> out) = 0;

  bool has(const std::string& name) const { return size(name).has_value(); }
  /// A whole file. @throws UsageError when there is none of that name; EnvironmentError as read().
  std::string read_text(const std::string& name);
};

/// The regular files of a folder with one of the given endings, or a single file. Sizes are those at the start.
class DiskFiles : public FileSource {
 public:
  /// @throws UsageError naming `path` when it is neither folder nor file.
  explicit DiskFiles(const std::string& path, const std::vector<std::string>& endings = {});

  std::string place() const override { return path_; }
  std::vector<std::string> names() const override;
  std::optional<std::uint64_t> size(const std::string& name) const override;
  void read(const std::string& name, std::uint64_t offset, std::span<std::byte> out) override;

 private:
  std::string path_, folder_;
  std::map<std::string, std::uint64_t> sizes_;
};

}  // namespace supernode
