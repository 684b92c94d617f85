#include "runtime/core/result_file.hpp"

#include <filesystem>
#include <functional>
#include <numeric>
#include <utility>

#include <fmt/format.h>
#include <hdf5.h>

#include "runtime/core/error.hpp"
#include "runtime/core/hdf5/hdf5_id.hpp"

namespace supernode {
namespace {

using Id = internal::Hdf5Id;

}  // namespace

struct ResultFile::Impl {
  std::string path;
  hid_t file = -1;

  ~Impl() {
    if (file >= 0) H5Fclose(file);
  }

  void check(bool good, const char* what) const {
    if (!good) throw EnvironmentError(fmt::format("cannot write '{}': HDF5 failed to {}", path, what));
  }

  void dataset(const std::string& name, hid_t memory_type, hid_t file_type, const void* values,
               const std::vector<std::size_t>& shape) const {
    const std::vector<hsize_t> extent(shape.begin(), shape.end());
    const Id space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose);
    const Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(links, 1);
    const Id set(H5Dcreate2(file, name.c_str(), file_type, space, links, H5P_DEFAULT, H5P_DEFAULT), H5Dclose);
    check(set >= 0, "create a dataset");
    check(H5Dwrite(set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, "write a dataset");
  }
};

ResultFile::ResultFile(const std::string& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->file = internal::create_new_hdf5(path);
}

ResultFile::~ResultFile() = default;
ResultFile::ResultFile(ResultFile&&) noexcept = default;
ResultFile& ResultFile::operator=(ResultFile&&) noexcept = default;

void ResultFile::attribute(const std::string& object, const std::string& name, const std::string& text) {
  const Id target(H5Oopen(impl_->file, object.c_str(), H5P_DEFAULT), H5Oclose);
  impl_->check(target >= 0, "open an object");
  const Id type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);  // long texts (a whole configuration) do not fit a fixed-size attribute's 64 KiB
  H5Tset_cset(type, H5T_CSET_UTF8);
  const Id space(H5Screate(H5S_SCALAR), H5Sclose);
  const Id attribute(H5Acreate2(target, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  const char* pointer = text.c_str();
  impl_->check(attribute >= 0 && H5Awrite(attribute, type, &pointer) >= 0, "write an attribute");
}

void ResultFile::dataset(const std::string& path, std::span<const double> values,
                         const std::vector<std::size_t>& shape) {
  expect(std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>()) == values.size(),
         "dataset shape and size differ");
  impl_->dataset(path, H5T_NATIVE_DOUBLE, H5T_IEEE_F64LE, values.data(), shape);
}

void ResultFile::dataset(const std::string& path, std::span<const std::int64_t> values,
                         const std::vector<std::size_t>& shape) {
  expect(std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>()) == values.size(),
         "dataset shape and size differ");
  impl_->dataset(path, H5T_NATIVE_INT64, H5T_STD_I64LE, values.data(), shape);
}

void ResultFile::dataset(const std::string& path, const std::vector<std::string>& texts) {
  const Id type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  std::vector<const char*> pointers;
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  impl_->dataset(path, type, type, pointers.data(), {texts.size()});
}

void ResultFile::close() {
  const herr_t status = H5Fclose(std::exchange(impl_->file, -1));
  impl_->check(status >= 0, "flush the file");
}

}  // namespace supernode
