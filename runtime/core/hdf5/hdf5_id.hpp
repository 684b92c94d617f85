#pragma once
// Owner of HDF5 identifiers, and what both kinds of files of ours need of HDF5.

#include <string>
#include <utility>

#include <hdf5.h>

namespace supernode::internal {

/// Owns one HDF5 identifier; `closer` is the function for its kind. Negative: none, or the call that made it failed.
class Hdf5Id {
 public:
  Hdf5Id() = default;
  Hdf5Id(hid_t id, herr_t (*closer)(hid_t)) : id_(id), close_(closer) {}
  Hdf5Id(Hdf5Id&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Id& operator=(Hdf5Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Hdf5Id() { close(); }
  operator hid_t() const { return id_; }  // NOLINT: HDF5 takes identifiers everywhere

  /// Closes it now. @returns whether HDF5 could; true when there is none.
  bool close() {
    const hid_t id = std::exchange(id_, -1);
    return id < 0 || close_(id) >= 0;
  }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

/// The type of texts: of any length, UTF-8.
inline Hdf5Id text_type() {
  Hdf5Id type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);  // long texts (a whole configuration) do not fit a fixed-size attribute's 64 KiB
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

}  // namespace supernode::internal
