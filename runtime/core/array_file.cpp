#include "runtime/core/array_file.hpp"

#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/hdf5/hdf5_input.hpp"
#include "runtime/core/hdf5/hdf5_output.hpp"

namespace supernode {
namespace {

using Id = internal::Hdf5Id;

constexpr ElementType all_types[] = {ElementType::f32, ElementType::bf16, ElementType::int8};

Id stored_type(ElementType type) {
  switch (type) {
    case ElementType::f32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
    case ElementType::int8:
      return {H5Tcopy(H5T_STD_I8LE), H5Tclose};
    case ElementType::bf16: {
      Id id(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
      H5Tset_fields(id, 15, 7, 8, 0, 7);  // sign, exponent of 8 bits, mantissa of 7
      H5Tset_precision(id, 16);
      H5Tset_size(id, 2);
      H5Tset_ebias(id, 127);
      return id;
    }
    default:
      panic(fmt::format("arrays of {} are not stored", name_of(type)));
  }
}

/// Selects whole rows in the space of an array. @returns the space of the rows in memory.
Id select_rows(hid_t space, const ArrayInfo& info, std::size_t row, std::size_t rows) {
  std::vector<hsize_t> start(info.shape.size(), 0), count(info.shape.begin(), info.shape.end());
  start[0] = row;
  count[0] = rows;
  H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
  return {H5Screate_simple(static_cast<int>(count.size()), count.data(), nullptr), H5Sclose};
}

/// How many rows `bytes` are; the whole array when its rows are empty.
std::size_t rows_in(const ArrayInfo& info, std::size_t bytes) {
  const std::size_t row = info.row_bytes();
  expect(row == 0 || bytes % row == 0, "array file: not whole rows");
  return row == 0 ? 0 : bytes / row;
}

}  // namespace

std::size_t ArrayInfo::row_bytes() const {
  std::size_t bytes = element_bytes(type);
  for (std::size_t i = 1; i < shape.size(); ++i) bytes *= static_cast<std::size_t>(shape[i]);
  return bytes;
}

std::size_t ArrayInfo::bytes() const { return static_cast<std::size_t>(shape[0]) * row_bytes(); }

struct ArrayFileWriter::Impl {
  internal::Hdf5Output file;
  std::map<std::string, ArrayInfo> arrays;
};

ArrayFileWriter::ArrayFileWriter(const std::string& path, IfExists if_exists)
    : impl_(new Impl{internal::Hdf5Output(path, if_exists), {}}) {}

ArrayFileWriter::~ArrayFileWriter() = default;

void ArrayFileWriter::attribute(const std::string& name, const std::string& text) {
  impl_->file.attribute(impl_->file.id(), name, text);
}

void ArrayFileWriter::create(const std::string& name, const ArrayInfo& info, ArrayLayout layout) {
  const std::vector<hsize_t> extent(info.shape.begin(), info.shape.end());
  const Id space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose);
  const Id properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose), type = stored_type(info.type);
  H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
  if (layout == ArrayLayout::by_row && info.bytes() > 0) {
    std::vector<hsize_t> chunk = extent;
    chunk[0] = 1;
    H5Pset_chunk(properties, static_cast<int>(chunk.size()), chunk.data());
  }
  const Id set(H5Dcreate2(impl_->file.id(), name.c_str(), type, space, H5P_DEFAULT, properties, H5P_DEFAULT), H5Dclose);
  impl_->file.check(set >= 0, "create array " + name);
  impl_->arrays.emplace(name, info);
}

void ArrayFileWriter::write_rows(const std::string& name, std::size_t row, std::span<const std::byte> bytes) {
  const ArrayInfo& info = impl_->arrays.at(name);
  const std::size_t rows = rows_in(info, bytes.size());
  if (rows == 0) return;
  const Id set(H5Dopen2(impl_->file.id(), name.c_str(), H5P_DEFAULT), H5Dclose), space(H5Dget_space(set), H5Sclose);
  const Id memory = select_rows(space, info, row, rows), type = stored_type(info.type);
  impl_->file.check(H5Dwrite(set, type, memory, space, H5P_DEFAULT, bytes.data()) >= 0, "write array " + name);
}

void ArrayFileWriter::close() { impl_->file.commit(); }

struct ArrayFile::Impl {
  internal::Hdf5Input file;
  std::map<std::string, ArrayInfo> arrays = {};
};

ArrayFile::ArrayFile(const std::string& path) : impl_(new Impl{internal::Hdf5Input(path)}) { read_directory(); }

ArrayFile::ArrayFile(const std::string& path, std::vector<std::byte> image)
    : impl_(new Impl{internal::Hdf5Input(path, std::move(image))}) {
  read_directory();
}

void ArrayFile::read_directory() {
  for (std::string& name : impl_->file.names_in("/")) {
    const auto refuse = [&](const char* why) {
      throw UsageError(fmt::format("{}: '{}' {}", impl_->file.path(), name, why));
    };
    const Id set(H5Dopen2(impl_->file.id(), name.c_str(), H5P_DEFAULT), H5Dclose);
    if (set < 0) refuse("is not an array that can be opened");
    const Id type(H5Dget_type(set), H5Tclose);
    ArrayInfo info;
    bool known = false;
    for (const ElementType candidate : all_types)
      if (H5Tequal(type, stored_type(candidate)) > 0) {
        info.type = candidate;
        known = true;
      }
    if (!known) refuse("is of another type than f32, bf16 or int8");
    const std::vector<std::size_t> shape = impl_->file.shape_of(set, name);
    info.shape.assign(shape.begin(), shape.end());
    impl_->arrays.emplace(std::move(name), std::move(info));
  }
}

ArrayFile::~ArrayFile() = default;
ArrayFile::ArrayFile(ArrayFile&&) noexcept = default;
ArrayFile& ArrayFile::operator=(ArrayFile&&) noexcept = default;

const std::string& ArrayFile::path() const { return impl_->file.path(); }
const std::map<std::string, ArrayInfo>& ArrayFile::arrays() const { return impl_->arrays; }

const ArrayInfo* ArrayFile::find(const std::string& name) const {
  const auto found = impl_->arrays.find(name);
  return found == impl_->arrays.end() ? nullptr : &found->second;
}

std::string ArrayFile::attribute(const std::string& name) const {
  return internal::Hdf5Input::attribute(impl_->file.id(), name);
}

void ArrayFile::read_rows(const std::string& name, std::size_t row, std::span<std::byte> out) const {
  const ArrayInfo& info = impl_->arrays.at(name);
  const std::size_t rows = rows_in(info, out.size());
  expect(row + rows <= static_cast<std::size_t>(info.shape[0]), "array file: rows beyond the end");
  if (rows == 0) return;
  const Id set(H5Dopen2(impl_->file.id(), name.c_str(), H5P_DEFAULT), H5Dclose), space(H5Dget_space(set), H5Sclose);
  const Id memory = select_rows(space, info, row, rows), type = stored_type(info.type);
  if (H5Dread(set, type, memory, space, H5P_DEFAULT, out.data()) < 0)
    throw UsageError(fmt::format("{}: array '{}' cannot be read: a damaged file?", impl_->file.path(), name));
}

}  // namespace supernode
