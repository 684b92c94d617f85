#include "runtime/core/result_reader.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/hdf5/hdf5_input.hpp"

namespace supernode {
namespace {

using Id = internal::Hdf5Id;

}  // namespace

struct ResultReader::Impl {
  internal::Hdf5Input file;

  UsageError bad(const std::string& name, const std::string& why) const {
    return UsageError(fmt::format("{}: '{}' {}", file.path(), name, why));
  }
  Id open(const std::string& dataset) const {
    Id set(H5Dopen2(file.id(), dataset.c_str(), H5P_DEFAULT), H5Dclose);
    if (set < 0) throw bad(dataset, "is missing");
    return set;
  }

  void read(const std::string& dataset, std::size_t row, hid_t memory_type, std::size_t values, void* out) const {
    const Id set = open(dataset), type(H5Dget_type(set), H5Tclose);
    if (H5Tget_class(type) != H5T_INTEGER || H5Tget_size(type) != H5Tget_size(memory_type))
      throw bad(dataset, "is of another type");
    const std::vector<std::size_t> shape = file.shape_of(set, dataset);
    std::vector<hsize_t> start(shape.size(), 0), count(shape.begin(), shape.end());
    std::size_t columns = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) columns *= shape[i];
    if (values == 0) return;
    if (columns == 0 || values % columns != 0 || row > shape[0] || values / columns > shape[0] - row)
      throw bad(dataset, "has too few values");
    start[0] = row;
    count[0] = values / columns;
    const Id space(H5Dget_space(set), H5Sclose);
    const Id memory(H5Screate_simple(static_cast<int>(count.size()), count.data(), nullptr), H5Sclose);
    if (H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr) < 0 ||
        H5Dread(set, memory_type, memory, space, H5P_DEFAULT, out) < 0)
      throw bad(dataset, "cannot be read: a damaged file?");
  }
};

ResultReader::ResultReader(const std::string& path) : impl_(new Impl{internal::Hdf5Input(path)}) {}
ResultReader::~ResultReader() = default;
ResultReader::ResultReader(ResultReader&&) noexcept = default;
ResultReader& ResultReader::operator=(ResultReader&&) noexcept = default;

const std::string& ResultReader::path() const { return impl_->file.path(); }

std::string ResultReader::attribute(const std::string& object, const std::string& name) const {
  const Id target(H5Oopen(impl_->file.id(), object.c_str(), H5P_DEFAULT), H5Oclose);
  return target < 0 ? std::string() : internal::Hdf5Input::attribute(target, name);
}

std::vector<std::string> ResultReader::names_in(const std::string& group) const {
  if (group != "/" && H5Lexists(impl_->file.id(), group.c_str(), H5P_DEFAULT) <= 0) return {};
  return impl_->file.names_in(group);
}

std::vector<std::size_t> ResultReader::shape(const std::string& dataset) const {
  return impl_->file.shape_of(impl_->open(dataset), dataset);
}

void ResultReader::read_rows(const std::string& dataset, std::size_t row, std::span<std::byte> out) const {
  impl_->read(dataset, row, H5T_NATIVE_UINT8, out.size(), out.data());
}
void ResultReader::read_rows(const std::string& dataset, std::size_t row, std::span<std::int64_t> out) const {
  impl_->read(dataset, row, H5T_NATIVE_INT64, out.size(), out.data());
}

}  // namespace supernode
