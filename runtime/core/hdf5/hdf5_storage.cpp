#include "runtime/core/hdf5/hdf5_storage.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <new>

#include <sys/stat.h>
#include <unistd.h>

#if __has_include(<H5FDdevelop.h>)  // HDF5 1.14 keeps the types of drivers there, 1.10 in hdf5.h
#include <H5FDdevelop.h>
#endif

namespace supernode::internal {
namespace {

/// An open file as HDF5 sees it.
struct DriverFile : H5FD_t {
  Hdf5Storage* storage = nullptr;
  haddr_t allocated = 0;  ///< the end of what HDF5 gave out
  haddr_t end = 0;        ///< the end of the file
};

DriverFile& file_of(H5FD_t* file) { return *static_cast<DriverFile*>(file); }
const DriverFile& file_of(const H5FD_t* file) { return *static_cast<const DriverFile*>(file); }

/// What H5Pset_driver carries to open_file().
struct DriverInfo {
  Hdf5Storage* storage;
};

H5FD_t* open_file(const char*, unsigned, hid_t access, haddr_t) {
  const auto* info = static_cast<const DriverInfo*>(H5Pget_driver_info(access));
  struct stat status {};
  if (!info || ::fstat(info->storage->descriptor, &status) != 0) return nullptr;
  auto* file = new (std::nothrow) DriverFile{};
  if (!file) return nullptr;
  file->storage = info->storage;
  file->end = static_cast<haddr_t>(status.st_size);
  return file;
}

herr_t close_file(H5FD_t* file) {
  delete &file_of(file);
  return 0;
}

herr_t query(const H5FD_t*, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

haddr_t get_allocated(const H5FD_t* file, H5FD_mem_t) { return file_of(file).allocated; }
haddr_t get_end(const H5FD_t* file, H5FD_mem_t) { return file_of(file).end; }

herr_t set_allocated(H5FD_t* file, H5FD_mem_t, haddr_t address) {
  file_of(file).allocated = address;
  return 0;
}

/// Lays what was written but lost over what was read from the disk.
void restore(const Hdf5Storage& storage, haddr_t address, std::size_t size, std::byte* out) {
  for (const auto& [start, bytes] : storage.lost) {
    const haddr_t first = std::max(start, address), last = std::min<haddr_t>(start + bytes.size(), address + size);
    if (first < last) std::memcpy(out + (first - address), bytes.data() + (first - start), last - first);
  }
}

/// Beyond the end of the file there are zeros.
herr_t read_bytes(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, void* buffer) {
  const Hdf5Storage& storage = *file_of(file).storage;
  auto* out = static_cast<std::byte*>(buffer);
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n = ::pread(storage.descriptor, out + done, size - done, static_cast<off_t>(address + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  std::memset(out + done, 0, size - done);
  restore(storage, address, size, out);
  return 0;
}

herr_t write_bytes(H5FD_t* file, H5FD_mem_t type, hid_t, haddr_t address, std::size_t size, const void* buffer) {
  DriverFile& to = file_of(file);
  Hdf5Storage& storage = *to.storage;
  const auto* bytes = static_cast<const std::byte*>(buffer);
  to.end = std::max<haddr_t>(to.end, address + size);
  for (std::size_t done = 0; done < size && storage.write_error == 0;) {
    const ssize_t n = ::pwrite(storage.descriptor, bytes + done, size - done, static_cast<off_t>(address + done));
    if (n < 0 && errno != EINTR) storage.write_error = errno;
    if (n > 0) done += static_cast<std::size_t>(n);
  }
  if (storage.write_error == 0 || type == H5FD_MEM_DRAW) return 0;
  try {
    storage.lost.emplace_back(address, std::vector<std::byte>(bytes, bytes + size));
  } catch (const std::bad_alloc&) {
    return -1;
  }
  return 0;
}

/// Gives the file the size that HDF5 expects when it opens it again.
herr_t truncate_file(H5FD_t* file, hid_t, hbool_t) {
  DriverFile& to = file_of(file);
  Hdf5Storage& storage = *to.storage;
  if (to.end == to.allocated) return 0;
  if (storage.write_error == 0 && ::ftruncate(storage.descriptor, static_cast<off_t>(to.allocated)) != 0)
    storage.write_error = errno;
  to.end = to.allocated;
  return 0;
}

hid_t driver() {
  static const hid_t id = [] {
    H5FD_class_t functions{};
#ifdef H5FD_CLASS_VERSION
    functions.version = H5FD_CLASS_VERSION;
    functions.value = 600;  // from 512 on they are free for all
#endif
    functions.name = "supernode";
    functions.maxaddr = static_cast<haddr_t>(INT64_MAX);
    functions.fc_degree = H5F_CLOSE_STRONG;  // no identifier outlives the storage
    functions.fapl_size = sizeof(DriverInfo);
    functions.open = open_file;
    functions.close = close_file;
    functions.query = query;
    functions.get_eoa = get_allocated;
    functions.set_eoa = set_allocated;
    functions.get_eof = get_end;
    functions.read = read_bytes;
    functions.write = write_bytes;
    functions.truncate = truncate_file;
    std::fill(std::begin(functions.fl_map), std::end(functions.fl_map), H5FD_MEM_SUPER);
    functions.fl_map[H5FD_MEM_DRAW] = functions.fl_map[H5FD_MEM_GHEAP] = H5FD_MEM_DRAW;
    return H5FDregister(&functions);
  }();
  return id;
}

/// How to open a file: by our driver, on `storage`.
Hdf5Id access_to(Hdf5Storage& storage) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const DriverInfo info{&storage};
  H5Pset_driver(access, driver(), &info);
  return access;
}

}  // namespace

Hdf5Id create_hdf5(Hdf5Storage& storage, const char* name) {
  const Hdf5Id access = access_to(storage);
  return {H5Fcreate(name, H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose};
}

Hdf5Id open_hdf5(Hdf5Storage& storage, const char* name) {
  const Hdf5Id access = access_to(storage);
  return {H5Fopen(name, H5F_ACC_RDONLY, access), H5Fclose};
}

}  // namespace supernode::internal
