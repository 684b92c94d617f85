#pragma once
// HDF5 over an open file descriptor, by a file driver of our own, for two reasons.
//
// HDF5 cannot leave a file whose disk refused a write: H5Fclose fails, the file stays open inside the library, and the
// library crashes on it when the process ends. So HDF5 is never told. The driver keeps the first error for us, takes
// all further writes for done, and remembers the metadata among them, for HDF5 reads it back.
//
// HDF5's own driver locks files, also those that it reads, and gives up where a file system has no locks or somebody
// else holds one. Nothing here needs locks: results become visible when they are whole, and models do not change.

#include <cstddef>
#include <utility>
#include <vector>

#include "runtime/core/hdf5/hdf5_id.hpp"

namespace supernode::internal {

/// Where the bytes of a file are. Outlives the identifier of the file.
struct Hdf5Storage {
  int descriptor = -1;  ///< borrowed
  /// errno of the first write that the disk did not take; 0: none. The file is then worthless.
  int write_error = 0;
  /// What HDF5 wrote since, raw data apart, with its address.
  std::vector<std::pair<haddr_t, std::vector<std::byte>>> lost;
};

/// A new HDF5 file in an empty file that is open for reading and writing. `name` is for HDF5's messages. Negative when
/// HDF5 cannot. HDF5's own error stack stays silent from now on.
Hdf5Id create_hdf5(Hdf5Storage& storage, const char* name);

/// An existing one, read-only. Negative when it is none.
Hdf5Id open_hdf5(Hdf5Storage& storage, const char* name);

}  // namespace supernode::internal
