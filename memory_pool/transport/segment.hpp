#pragma once
// The owners' memory, and transfers to and from it that never block on an owner.

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/mpi/communicator.hpp"

namespace supernode::pool::internal {

/// The window. Two transports behind one face:
/// - shared: all ranks on one host, MPI_Win_allocate_shared; a transfer is a copy and done at once, whatever the owner
///   does.
/// - rma: MPI_Win_allocate; transfers are MPI_Rget / MPI_Rput through staging buffers of ours, since a transfer that an
///   owner does not serve in time stays in flight, and must not land in memory that its caller has left.
class Segment {
 public:
  /// Collective. `owners` allocate `bytes`, zeroed in front up to `zeroed`; `transport` as PoolConfig::transport.
  /// "auto" is shared where that is possible.
  /// @throws on every rank for "shared" where it is not possible: UsageError across hosts, EnvironmentError else.
  Segment(const Communicator& comm, const std::vector<int>& owners, std::uint64_t bytes, std::uint64_t zeroed,
          const std::string& transport);
  /// Collective; nothing may be in flight (abandoned_in_flight() is false).
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  bool shared() const { return shared_; }
  std::span<std::byte> local() const { return local_; }  ///< this rank's own; empty unless it is an owner
  /// A word of `owner`'s memory, aligned; `shared` transport only.
  std::uint64_t word(int owner, std::uint64_t offset) const;
  /// Transfers given up earlier are still in MPI's hands. Frees those that have ended.
  bool abandoned_in_flight();

 private:
  friend class Transfers;
  struct Staged {
    int owner = -1;
    std::vector<MPI_Request> requests;  ///< one for each GiB
    std::vector<std::byte> staging;
    std::span<std::byte> destination;  ///< of a get
    bool done() const { return requests.empty(); }
  };
  static bool test(Staged& transfer);

  bool shared_ = false;
  OwnedWindow window_;
  std::span<std::byte> local_;
  std::vector<std::byte*> base_;             ///< shared: by rank, null for others than owners
  std::vector<std::uint64_t> displacement_;  ///< rma: by rank, of the first aligned byte
  std::list<Staged> abandoned_;
};

/// A group of transfers in flight. Destroying it gives up those that have not ended; their destinations stay untouched.
class Transfers {
 public:
  explicit Transfers(Segment& segment) : segment_(&segment) {}
  ~Transfers();
  Transfers(Transfers&& other) noexcept;
  Transfers& operator=(Transfers&&) = delete;

  /// Starts; `offset` from the start of the owner's memory. `destination` is filled once test() has been true.
  void get(int owner, std::uint64_t offset, std::span<std::byte> destination);
  /// Starts, and returns the checksum of `source`, which may be reused on return. In the rma transport test() tells
  /// only that the staging may: the owner must check that the bytes have arrived.
  std::uint64_t put(int owner, std::uint64_t offset, std::span<const std::byte> source);
  /// Takes in what has ended; never blocks. @returns true when nothing is in flight.
  bool test();
  /// Gives up the transfers of `owner`.
  void abandon(int owner);

 private:
  using Staged = Segment::Staged;
  Segment* segment_;
  std::list<Staged> in_flight_;
};

}  // namespace supernode::pool::internal
