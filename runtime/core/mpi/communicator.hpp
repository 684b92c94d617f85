#pragma once
// A communicator that knows its rank and size, and the few collectives on host data that all parts use.

#include <string>
#include <vector>

#include <mpi.h>

#include "runtime/core/mpi/handle.hpp"

namespace supernode {

/// Owns an MPI communicator. Each module duplicates its own, so that tags and collectives of two modules never meet.
/// The error handler is MPI_ERRORS_RETURN: failures come back through SUPERNODE_MPI.
class Communicator {
 public:
  Communicator() = default;  ///< null communicator: rank() -1, size() 0
  /// Takes ownership of `comm`; MPI_COMM_NULL gives a null communicator.
  explicit Communicator(OwnedComm comm);

  /// A duplicate of MPI_COMM_WORLD. Collective over the world.
  static Communicator world();
  /// Collective over this communicator.
  Communicator duplicate() const;
  /// MPI_Comm_split; color MPI_UNDEFINED gives a null communicator. Collective over this communicator.
  Communicator split(int color, int key) const;
  /// The ranks that share this rank's memory (its host), in rank order. Collective over this communicator.
  Communicator split_by_host() const;

  MPI_Comm get() const noexcept { return comm_.get(); }
  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  explicit operator bool() const noexcept { return static_cast<bool>(comm_); }

  /// Collective.
  void barrier() const;
  /// Every rank ends with the text of `root`. Collective.
  std::string broadcast(std::string text, int root = 0) const;
  /// The texts of all ranks in rank order on `root`; empty elsewhere. Collective.
  std::vector<std::string> gather(const std::string& text, int root = 0) const;
  /// The maximum / sum over ranks, on all ranks. Collective.
  double max(double value) const;
  double sum(double value) const;
  long long max(long long value) const;
  long long sum(long long value) const;

 private:
  OwnedComm comm_;
  int rank_ = -1;
  int size_ = 0;
};

}  // namespace supernode
