#pragma once
// Messages are whole lines. MPI counts in lines too, so its int counts reach 128 GiB.

#include <cstddef>

#include "collectives/rows/layout.hpp"
#include "runtime/core/mpi/handle.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {

/// A line as MPI's unit.
inline OwnedDatatype line_type() {
  OwnedDatatype line;
  SUPERNODE_MPI(MPI_Type_contiguous(static_cast<int>(line_bytes), MPI_BYTE, line.out()));
  SUPERNODE_MPI(MPI_Type_commit(line.out()));
  return line;
}

/// The count for `bytes`, whole lines.
inline int lines_of(std::size_t bytes) { return count_cast(bytes / line_bytes, "lines of a message"); }

}  // namespace supernode::collectives
