#pragma once
// A new HDF5 file that stands under its name only when it is whole.

#include <string>

#include "runtime/core/hdf5/hdf5_id.hpp"
#include "runtime/core/hdf5/hdf5_storage.hpp"
#include "runtime/core/new_file.hpp"

namespace supernode::internal {

class Hdf5Output {
 public:
  /// @throws as NewFile.
  Hdf5Output(const std::string& path, IfExists if_exists);

  hid_t id() const { return id_; }
  /// A text as an attribute of an open object; what is no UTF-8 in it is replaced as valid_utf8() does.
  void attribute(hid_t object, const std::string& name, const std::string& text) const;
  /// To be called after every step. @throws EnvironmentError when HDF5 said no, or the disk did not take a write: with
  /// the system's reason, or else `what` HDF5 failed to do.
  void check(bool good, const std::string& what) const;
  /// Flushes, closes, and gives the file its name. @throws as check(), and as NewFile::commit().
  void commit();

 private:
  NewFile file_;
  Hdf5Storage storage_;
  Hdf5Id id_;  // goes first
};

}  // namespace supernode::internal
