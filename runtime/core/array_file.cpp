#include "runtime/core/array_file.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/file_descriptor.hpp"
#include "runtime/core/hdf5/hdf5_output.hpp"
#include "runtime/core/hdf5/hdf5_storage.hpp"

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
  std::string path;
  FileDescriptor disk_file;  ///< none for an image
  internal::Hdf5Storage storage;
  std::map<std::string, ArrayInfo> arrays;
  Id file;  // goes first
};

ArrayFile::ArrayFile(const std::string& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  if (!std::filesystem::is_regular_file(path)) throw UsageError(fmt::format("{}: no such file", path));
  impl_->disk_file = FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!impl_->disk_file) throw UsageError(fmt::format("{}: {}", path, std::strerror(errno)));
  impl_->storage.descriptor = impl_->disk_file.get();
  impl_->file = internal::open_hdf5(impl_->storage, path.c_str());
  read_directory();
}

ArrayFile::ArrayFile(const std::string& path, std::vector<std::byte> image) : impl_(std::make_unique<Impl>()) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  impl_->path = path;
  // HDF5's core driver keeps a copy of the image and never touches a file.
  const Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  if (!image.empty() && H5Pset_fapl_core(access, 1u << 20, 0) >= 0 &&
      H5Pset_file_image(access, image.data(), image.size()) >= 0)
    impl_->file = Id(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose);
  read_directory();
}

void ArrayFile::read_directory() {
  const std::string& path = impl_->path;
  if (impl_->file < 0) throw UsageError(fmt::format("{}: not an HDF5 file, or truncated", path));

  H5G_info_t group{};
  if (H5Gget_info(impl_->file, &group) < 0) throw UsageError(fmt::format("{}: its directory is damaged", path));
  for (hsize_t i = 0; i < group.nlinks; ++i) {
    const auto read_name = [&](char* to, std::size_t size) {
      return H5Lget_name_by_idx(impl_->file, ".", H5_INDEX_NAME, H5_ITER_NATIVE, i, to, size, H5P_DEFAULT);
    };
    const ssize_t length = read_name(nullptr, 0);
    if (length < 0) throw UsageError(fmt::format("{}: its directory is damaged", path));
    std::string name(static_cast<std::size_t>(length), '\0');
    read_name(name.data(), name.size() + 1);
    const auto refuse = [&](const char* why) { throw UsageError(fmt::format("{}: '{}' {}", path, name, why)); };

    const Id set(H5Dopen2(impl_->file, name.c_str(), H5P_DEFAULT), H5Dclose);
    if (set < 0) refuse("is not an array that can be opened");
    const Id type(H5Dget_type(set), H5Tclose), space(H5Dget_space(set), H5Sclose);
    ArrayInfo info;
    bool known = false;
    for (const ElementType candidate : all_types)
      if (H5Tequal(type, stored_type(candidate)) > 0) {
        info.type = candidate;
        known = true;
      }
    if (!known) refuse("is of another type than f32, bf16 or int8");
    const int dimensions = H5Sget_simple_extent_ndims(space);
    if (dimensions < 1) refuse("has no dimensions");
    std::vector<hsize_t> extent(static_cast<std::size_t>(dimensions));
    H5Sget_simple_extent_dims(space, extent.data(), nullptr);
    // A damaged header may claim anything; sizes are multiplied and allocated later.
    hsize_t elements = 1;
    for (const hsize_t size : extent) {
      if (size != 0 && elements > (hsize_t{1} << 48) / size) refuse("has an absurd shape");
      elements *= size;
    }
    info.shape.assign(extent.begin(), extent.end());
    impl_->arrays.emplace(std::move(name), std::move(info));
  }
}

ArrayFile::~ArrayFile() = default;
ArrayFile::ArrayFile(ArrayFile&&) noexcept = default;
ArrayFile& ArrayFile::operator=(ArrayFile&&) noexcept = default;

const std::string& ArrayFile::path() const { return impl_->path; }
const std::map<std::string, ArrayInfo>& ArrayFile::arrays() const { return impl_->arrays; }

const ArrayInfo* ArrayFile::find(const std::string& name) const {
  const auto found = impl_->arrays.find(name);
  return found == impl_->arrays.end() ? nullptr : &found->second;
}

std::string ArrayFile::attribute(const std::string& name) const {
  if (H5Aexists(impl_->file, name.c_str()) <= 0) return {};
  const Id attribute(H5Aopen(impl_->file, name.c_str(), H5P_DEFAULT), H5Aclose);
  if (attribute < 0) return {};
  const Id stored(H5Aget_type(attribute), H5Tclose), space(H5Aget_space(attribute), H5Sclose);
  if (H5Tis_variable_str(stored) <= 0 || H5Sget_simple_extent_npoints(space) != 1) return {};
  char* text = nullptr;
  const Id type = internal::text_type();
  if (H5Aread(attribute, type, &text) < 0 || !text) return {};
  std::string result = text;
  H5free_memory(text);
  return result;
}

void ArrayFile::read_rows(const std::string& name, std::size_t row, std::span<std::byte> out) const {
  const ArrayInfo& info = impl_->arrays.at(name);
  const std::size_t rows = rows_in(info, out.size());
  expect(row + rows <= static_cast<std::size_t>(info.shape[0]), "array file: rows beyond the end");
  if (rows == 0) return;
  const Id set(H5Dopen2(impl_->file, name.c_str(), H5P_DEFAULT), H5Dclose), space(H5Dget_space(set), H5Sclose);
  const Id memory = select_rows(space, info, row, rows), type = stored_type(info.type);
  if (H5Dread(set, type, memory, space, H5P_DEFAULT, out.data()) < 0)
    throw UsageError(fmt::format("{}: array '{}' cannot be read: a damaged file?", impl_->path, name));
}

}  // namespace supernode
