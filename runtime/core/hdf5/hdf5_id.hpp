#pragma once
// Owner of HDF5 identifiers and how files are created; between the files of this folder that know hdf5.h.

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <hdf5.h>

#include "runtime/core/error.hpp"

namespace supernode::internal {

/// Owns one HDF5 identifier; `close` is the function for its kind. Negative: none, or the call that made it failed.
class Hdf5Id {
 public:
  Hdf5Id(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Hdf5Id(Hdf5Id&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Id(const Hdf5Id&) = delete;
  Hdf5Id& operator=(const Hdf5Id&) = delete;
  ~Hdf5Id() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }  // NOLINT: HDF5 takes identifiers everywhere

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

/// A new, open file. HDF5's own error stack stays silent. @throws UsageError when `path` exists, EnvironmentError with
/// the system's reason when it cannot be made.
inline hid_t create_new_hdf5(const std::string& path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  if (std::filesystem::exists(path))
    throw UsageError(fmt::format("cannot write '{}': it exists (results are never overwritten)", path));
  errno = 0;
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT);
  if (file < 0)
    throw EnvironmentError(fmt::format("cannot write '{}': {}", path,
                                       errno != 0 ? std::strerror(errno) : "HDF5 failed to create the file"));
  return file;
}

}  // namespace supernode::internal
