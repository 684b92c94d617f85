#pragma once
// Reading what ResultFile wrote.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace supernode {

/// An existing HDF5 file. Local, read-only and without locks. Every method throws UsageError naming the file, and the
/// dataset, for what is not there, is of another type, or cannot be read.
class ResultReader {
 public:
  /// @throws UsageError when the file is missing, no HDF5 file, or truncated.
  explicit ResultReader(const std::string& path);
  ~ResultReader();
  ResultReader(ResultReader&&) noexcept;
  ResultReader& operator=(ResultReader&&) noexcept;

  const std::string& path() const;
  /// A text attribute of `object`, "/" or a path; "" when there is none of that name.
  std::string attribute(const std::string& object, const std::string& name) const;
  /// The names in a group; none when there is no such group.
  std::vector<std::string> names_in(const std::string& group) const;
  std::vector<std::size_t> shape(const std::string& dataset) const;
  /// Fills `out`, n rows long, with rows [row, row + n) of a dataset of bytes or of integers.
  void read_rows(const std::string& dataset, std::size_t row, std::span<std::byte> out) const;
  void read_rows(const std::string& dataset, std::size_t row, std::span<std::int64_t> out) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode
