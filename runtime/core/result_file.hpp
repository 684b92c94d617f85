#pragma once
// Results as HDF5: raw samples and tables as datasets, provenance and configuration as attributes. One rank writes.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/new_file.hpp"

namespace supernode {

/// What a dataset that grows holds.
enum class ValueType { byte, int64 };

/// A new HDF5 file, which stands under its name from close() on; one that was not closed leaves nothing. Not
/// thread-safe; used by one rank (usually rank 0), no communication. Texts that are no UTF-8 are written as
/// valid_utf8() makes them. Every method throws EnvironmentError naming the file, and the system's reason, when the disk
/// or HDF5 refuses.
class ResultFile {
 public:
  /// @throws as NewFile.
  explicit ResultFile(const std::string& path, IfExists if_exists = IfExists::refuse);
  ~ResultFile();
  ResultFile(ResultFile&&) noexcept;
  ResultFile& operator=(ResultFile&&) noexcept;

  /// A text attribute of `object`: "/", or the path of a dataset or group written before.
  void attribute(const std::string& object, const std::string& name, const std::string& text);
  /// Missing groups in `path` are created. The product of `shape` equals values.size().
  void dataset(const std::string& path, std::span<const double> values, const std::vector<std::size_t>& shape);
  void dataset(const std::string& path, std::span<const std::int64_t> values, const std::vector<std::size_t>& shape);
  void dataset(const std::string& path, const std::vector<std::string>& texts);
  /// A dataset without rows, which append() makes longer; in chunks, and compressed where HDF5 can. A row is a value, or
  /// `columns` values.
  void create_growing(const std::string& path, ValueType type, std::size_t columns = 0);
  /// Whole rows, behind those that are there. @pre create_growing() with that type
  void append(const std::string& path, std::span<const std::byte> values);
  void append(const std::string& path, std::span<const std::int64_t> values);
  /// Flushes, closes, and gives the file its name. The last call.
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode
