#pragma once
// Results as HDF5: raw samples and tables as datasets, provenance and configuration as attributes. One rank writes.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace supernode {

/// A new HDF5 file. Not thread-safe; used by one rank (usually rank 0), no communication.
/// Every method throws EnvironmentError naming the file when HDF5 or the disk refuses.
class ResultFile {
 public:
  /// @throws UsageError when `path` exists: results are never overwritten.
  explicit ResultFile(const std::string& path);
  ~ResultFile();
  ResultFile(ResultFile&&) noexcept;
  ResultFile& operator=(ResultFile&&) noexcept;

  /// A text attribute of `object`: "/" or the path of a dataset written before.
  void attribute(const std::string& object, const std::string& name, const std::string& text);
  /// Missing groups in `path` are created. The product of `shape` equals values.size().
  void dataset(const std::string& path, std::span<const double> values, const std::vector<std::size_t>& shape);
  void dataset(const std::string& path, std::span<const std::int64_t> values, const std::vector<std::size_t>& shape);
  void dataset(const std::string& path, const std::vector<std::string>& texts);
  /// Flushes and closes, so that a full disk is seen here and not in a destructor.
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode
