#include "runtime/core/hdf5/hdf5_input.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::internal {

Hdf5Input::Hdf5Input(const std::string& path) : path_(path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) throw UsageError(fmt::format("{}: no such file", path));
  file_ = FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file_) throw UsageError(fmt::format("{}: {}", path, std::strerror(errno)));
  storage_.descriptor = file_.get();
  id_ = open_hdf5(storage_, path.c_str());
  check_open();
}

Hdf5Input::Hdf5Input(const std::string& path, std::vector<std::byte> image) : path_(path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  // HDF5's core driver keeps a copy of the image and never touches a file.
  const Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  if (!image.empty() && H5Pset_fapl_core(access, 1u << 20, 0) >= 0 &&
      H5Pset_file_image(access, image.data(), image.size()) >= 0)
    id_ = Hdf5Id(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose);
  check_open();
}

void Hdf5Input::check_open() const {
  if (id_ < 0) throw UsageError(fmt::format("{}: not an HDF5 file, or truncated", path_));
}

std::string Hdf5Input::attribute(hid_t object, const std::string& name) {
  if (H5Aexists(object, name.c_str()) <= 0) return {};
  const Hdf5Id attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose);
  if (attribute < 0) return {};
  const Hdf5Id stored(H5Aget_type(attribute), H5Tclose), space(H5Aget_space(attribute), H5Sclose);
  if (H5Tis_variable_str(stored) <= 0 || H5Sget_simple_extent_npoints(space) != 1) return {};
  char* text = nullptr;
  const Hdf5Id type = text_type();
  if (H5Aread(attribute, type, &text) < 0 || !text) return {};
  std::string result = text;
  H5free_memory(text);
  return result;
}

std::vector<std::string> Hdf5Input::names_in(const std::string& group) const {
  H5G_info_t info{};
  const Hdf5Id open(H5Gopen2(id_, group.c_str(), H5P_DEFAULT), H5Gclose);
  const auto damaged = [&] { return UsageError(fmt::format("{}: its directory is damaged", path_)); };
  if (open < 0 || H5Gget_info(open, &info) < 0) throw damaged();
  std::vector<std::string> names;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    const auto read_name = [&](char* to, std::size_t size) {
      return H5Lget_name_by_idx(open, ".", H5_INDEX_NAME, H5_ITER_NATIVE, i, to, size, H5P_DEFAULT);
    };
    const ssize_t length = read_name(nullptr, 0);
    if (length < 0) throw damaged();
    std::string name(static_cast<std::size_t>(length), '\0');
    read_name(name.data(), name.size() + 1);
    names.push_back(std::move(name));
  }
  return names;
}

std::vector<std::size_t> Hdf5Input::shape_of(hid_t dataset, const std::string& name) const {
  const auto refuse = [&](const char* why) { throw UsageError(fmt::format("{}: '{}' {}", path_, name, why)); };
  const Hdf5Id space(H5Dget_space(dataset), H5Sclose);
  const int dimensions = H5Sget_simple_extent_ndims(space);
  if (dimensions < 1) refuse("has no dimensions");
  std::vector<hsize_t> extent(static_cast<std::size_t>(dimensions));
  H5Sget_simple_extent_dims(space, extent.data(), nullptr);
  hsize_t elements = 1;
  for (const hsize_t size : extent) {
    if (size != 0 && elements > (hsize_t{1} << 48) / size) refuse("has an absurd shape");
    elements *= size;
  }
  return {extent.begin(), extent.end()};
}

}  // namespace supernode::internal
