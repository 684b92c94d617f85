#pragma once
// Owner of HDF5 identifiers; between the files of this folder that know hdf5.h.

#include <utility>

#include <hdf5.h>

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

}  // namespace supernode::internal
