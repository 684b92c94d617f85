#include "runtime/core/result_file.hpp"

#include <functional>
#include <numeric>

#include "runtime/core/error.hpp"
#include "runtime/core/hdf5/hdf5_output.hpp"
#include "runtime/core/json.hpp"

namespace supernode {
namespace {

using Id = internal::Hdf5Id;

}  // namespace

struct ResultFile::Impl {
  internal::Hdf5Output file;

  void dataset(const std::string& name, hid_t memory_type, hid_t file_type, const void* values,
               const std::vector<std::size_t>& shape) const {
    const std::vector<hsize_t> extent(shape.begin(), shape.end());
    const Id space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose);
    const Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(links, 1);
    const Id set(H5Dcreate2(file.id(), name.c_str(), file_type, space, links, H5P_DEFAULT, H5P_DEFAULT), H5Dclose);
    file.check(set >= 0, "create dataset " + name);
    file.check(H5Dwrite(set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, "write dataset " + name);
  }
};

ResultFile::ResultFile(const std::string& path, IfExists if_exists)
    : impl_(new Impl{internal::Hdf5Output(path, if_exists)}) {}

ResultFile::~ResultFile() = default;
ResultFile::ResultFile(ResultFile&&) noexcept = default;
ResultFile& ResultFile::operator=(ResultFile&&) noexcept = default;

void ResultFile::attribute(const std::string& object, const std::string& name, const std::string& text) {
  const Id target(H5Oopen(impl_->file.id(), object.c_str(), H5P_DEFAULT), H5Oclose);
  impl_->file.check(target >= 0, "open " + object);
  impl_->file.attribute(target, name, text);
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
  std::vector<std::string> valid;
  std::vector<const char*> pointers;
  for (const std::string& text : texts) valid.push_back(valid_utf8(text));
  for (const std::string& text : valid) pointers.push_back(text.c_str());
  const Id type = internal::text_type();
  impl_->dataset(path, type, type, pointers.data(), {texts.size()});
}

void ResultFile::close() { impl_->file.commit(); }

}  // namespace supernode
