#include "runtime/core/result_file.hpp"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "runtime/core/error.hpp"
#include "runtime/core/hdf5/hdf5_output.hpp"
#include "runtime/core/json.hpp"

namespace supernode {
namespace {

using Id = internal::Hdf5Id;

/// Of a dataset that grows; less than what HDF5 keeps of a dataset, 1 MiB.
constexpr hsize_t kChunkBytes = 1 << 18;

}  // namespace

struct ResultFile::Impl {
  /// A dataset that grows; open, so that HDF5 keeps its last chunk until it is full.
  struct Growing {
    Id set;
    hid_t memory_type = -1;
    std::vector<hsize_t> extent;
  };

  internal::Hdf5Output file;
  std::map<std::string, Growing> growing = {};

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

  void create(const std::string& name, hid_t memory_type, std::vector<hsize_t> extent) {
    std::vector<hsize_t> most = extent, chunk = extent;
    most[0] = H5S_UNLIMITED;
    hsize_t row_bytes = H5Tget_size(memory_type);
    for (std::size_t i = 1; i < extent.size(); ++i) row_bytes *= extent[i];
    chunk[0] = std::max<hsize_t>(1, kChunkBytes / row_bytes);
    const Id space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), most.data()), H5Sclose);
    const Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose), properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(links, 1);
    H5Pset_chunk(properties, static_cast<int>(chunk.size()), chunk.data());
    if (H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0) {
      H5Pset_shuffle(properties);
      H5Pset_deflate(properties, 1);
    }
    Id set(H5Dcreate2(file.id(), name.c_str(), memory_type, space, links, properties, H5P_DEFAULT), H5Dclose);
    file.check(set >= 0, "create dataset " + name);
    growing.emplace(name, Growing{std::move(set), memory_type, std::move(extent)});
  }

  void append(const std::string& name, std::size_t values, const void* from) {
    Growing& to = growing.at(name);
    std::vector<hsize_t> start(to.extent.size(), 0), count = to.extent;
    hsize_t columns = 1;
    for (std::size_t i = 1; i < count.size(); ++i) columns *= count[i];
    expect(values % columns == 0, "a dataset grows by whole rows");
    if (values == 0) return;
    start[0] = to.extent[0];
    count[0] = values / columns;
    to.extent[0] += count[0];
    bool good = H5Dset_extent(to.set, to.extent.data()) >= 0;
    const Id space(H5Dget_space(to.set), H5Sclose);
    const Id memory(H5Screate_simple(static_cast<int>(count.size()), count.data(), nullptr), H5Sclose);
    good = good && H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr) >= 0 &&
           H5Dwrite(to.set, to.memory_type, memory, space, H5P_DEFAULT, from) >= 0;
    file.check(good, "extend dataset " + name);
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

void ResultFile::create_growing(const std::string& path, ValueType type, std::size_t columns) {
  std::vector<hsize_t> extent{0};
  if (columns > 0) extent.push_back(columns);
  impl_->create(path, type == ValueType::byte ? H5T_NATIVE_UINT8 : H5T_NATIVE_INT64, std::move(extent));
}

void ResultFile::append(const std::string& path, std::span<const std::byte> values) {
  impl_->append(path, values.size(), values.data());
}
void ResultFile::append(const std::string& path, std::span<const std::int64_t> values) {
  impl_->append(path, values.size(), values.data());
}

void ResultFile::close() {
  impl_->growing.clear();
  impl_->file.commit();
}

}  // namespace supernode
