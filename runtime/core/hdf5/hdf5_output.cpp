#include "runtime/core/hdf5/hdf5_output.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/json.hpp"

namespace supernode::internal {

Hdf5Output::Hdf5Output(const std::string& path, IfExists if_exists) : file_(path, if_exists) {
  storage_.descriptor = file_.descriptor();
  id_ = create_hdf5(storage_, file_.draft().c_str());
  check(id_ >= 0, "create the file");
}

void Hdf5Output::attribute(hid_t object, const std::string& name, const std::string& text) const {
  const std::string valid = valid_utf8(text);
  const Hdf5Id type = text_type(), space(H5Screate(H5S_SCALAR), H5Sclose);
  const Hdf5Id attribute(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  const char* pointer = valid.c_str();
  check(attribute >= 0 && H5Awrite(attribute, type, &pointer) >= 0, "write attribute " + name);
}

void Hdf5Output::check(bool good, const std::string& what) const {
  if (storage_.write_error != 0) throw file_.failure(storage_.write_error);
  if (!good) throw EnvironmentError(fmt::format("cannot write '{}': HDF5 failed to {}", file_.path(), what));
}

void Hdf5Output::commit() {
  const bool closed = id_.close();
  check(closed, "close the file");
  file_.commit();
}

}  // namespace supernode::internal
