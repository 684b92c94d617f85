#pragma once
// An existing HDF5 file, read-only and without locks.

#include <cstddef>
#include <string>
#include <vector>

#include "runtime/core/file_descriptor.hpp"
#include "runtime/core/hdf5/hdf5_id.hpp"
#include "runtime/core/hdf5/hdf5_storage.hpp"

namespace supernode::internal {

class Hdf5Input {
 public:
  /// @throws UsageError naming the file when it is missing, no regular file, no HDF5 file, or truncated.
  explicit Hdf5Input(const std::string& path);
  /// The same of a file whose bytes are in memory; `path` is its name in messages.
  Hdf5Input(const std::string& path, std::vector<std::byte> image);
  Hdf5Input(const Hdf5Input&) = delete;
  Hdf5Input& operator=(const Hdf5Input&) = delete;

  hid_t id() const { return id_; }
  const std::string& path() const { return path_; }

  /// A text attribute of an open object; "" when there is none of that name.
  static std::string attribute(hid_t object, const std::string& name);
  /// The names in a group: "/" or a path. @throws UsageError when its directory cannot be read.
  std::vector<std::string> names_in(const std::string& group) const;
  /// The shape of an open dataset. @throws UsageError for one without dimensions, or an absurd one: a damaged header may
  /// claim anything, and sizes are multiplied and allocated later. @param name for the message
  std::vector<std::size_t> shape_of(hid_t dataset, const std::string& name) const;

 private:
  void check_open() const;

  std::string path_;
  FileDescriptor file_;  ///< none for an image
  Hdf5Storage storage_;
  Hdf5Id id_;  // goes first
};

}  // namespace supernode::internal
