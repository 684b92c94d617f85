#include "memory_pool/transport/segment.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "memory_pool/format/checksum.hpp"
#include "memory_pool/format/copy.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/memory_pages.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/shared_window.hpp"

namespace supernode::pool::internal {
namespace {

constexpr std::uint64_t alignment = 4096;
constexpr std::size_t largest_transfer = std::size_t{1} << 30;  // counts are int

}  // namespace

Segment::Segment(const Communicator& comm, const std::vector<int>& owners, std::uint64_t bytes, std::uint64_t zeroed,
                 const std::string& transport) {
  const bool elsewhere = comm.split_by_host().size() != comm.size();
  const bool one_host = comm.max(static_cast<long long>(elsewhere)) == 0;
  if (transport == "shared" && !one_host)
    throw UsageError("pool.transport = shared needs all ranks on one host; use rma or auto");
  shared_ = one_host && transport != "rma";

  const bool mine = std::find(owners.begin(), owners.end(), comm.rank()) != owners.end();
  const std::uint64_t size = mine ? bytes + alignment : 0;
  const WindowUse use{"the pool's memory", "choose a smaller pool.capacity"};
  SharedWindow memory;
  if (shared_) {
    memory = allocate_shared_window(comm, comm, size, use);
    // Refused where the user has chosen one-sided components without shared memory; then messages must do.
    shared_ = static_cast<bool>(memory.window);
    if (!shared_ && transport == "shared")
      throw EnvironmentError("pool.transport = shared: this MPI refuses MPI_Win_allocate_shared; use rma or auto");
  }
  if (!shared_) memory = allocate_window(comm, size, use);
  window_ = std::move(memory.window);
  SUPERNODE_MPI(MPI_Win_set_errhandler(window_.get(), MPI_ERRORS_RETURN));
  SUPERNODE_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_.get()));

  std::uint64_t skip = 0;
  if (mine) {
    skip = (alignment - reinterpret_cast<std::uintptr_t>(memory.own) % alignment) % alignment;
    local_ = {memory.own + skip, bytes};
    ask_for_huge_pages(local_);
  }
  // All of it now: a store must not find out later that the host has no more.
  take_window_pages(comm, local_, use);
  if (mine) std::memset(local_.data(), 0, zeroed);
  displacement_.resize(static_cast<std::size_t>(comm.size()));
  SUPERNODE_MPI(MPI_Allgather(&skip, 1, MPI_UINT64_T, displacement_.data(), 1, MPI_UINT64_T, comm.get()));
  if (shared_) {
    base_.resize(static_cast<std::size_t>(comm.size()));
    for (const int owner : owners) {
      MPI_Aint length = 0;
      int unit = 0;
      void* base = nullptr;
      SUPERNODE_MPI(MPI_Win_shared_query(window_.get(), owner, &length, &unit, &base));
      const auto rank = static_cast<std::size_t>(owner);
      base_[rank] = static_cast<std::byte*>(base) + displacement_[rank];
    }
  }
  SUPERNODE_MPI(MPI_Win_sync(window_.get()));
  comm.barrier();
  if (!shared_) {
    // The first transfer to an owner sets up a connection and may block in it: do that now, while all are here.
    std::byte first{};
    for (const int owner : owners) {
      OwnedRequest request;
      SUPERNODE_MPI(MPI_Rget(&first, 1, MPI_BYTE, owner, 0, 1, MPI_BYTE, window_.get(), request.out()));
    }
    comm.barrier();
  }
}

Segment::~Segment() {
  if (window_) MPI_Win_unlock_all(window_.get());
}

std::uint64_t Segment::word(int owner, std::uint64_t offset) const {
  auto* place = reinterpret_cast<std::uint64_t*>(base_[static_cast<std::size_t>(owner)] + offset);
  return std::atomic_ref(*place).load(std::memory_order_acquire);
}

bool Segment::test(Staged& transfer) {
  std::erase_if(transfer.requests, [](MPI_Request& request) { return completed(request); });
  return transfer.done();
}

bool Segment::abandoned_in_flight() {
  abandoned_.remove_if([](Staged& transfer) { return test(transfer); });
  return !abandoned_.empty();
}

Transfers::Transfers(Transfers&& other) noexcept : segment_(other.segment_), in_flight_(std::move(other.in_flight_)) {}

Transfers::~Transfers() { segment_->abandoned_.splice(segment_->abandoned_.end(), in_flight_); }

void Transfers::get(int owner, std::uint64_t offset, std::span<std::byte> destination) {
  if (destination.empty()) return;
  const auto rank = static_cast<std::size_t>(owner);
  if (segment_->shared_) {
    // What is copied may be written meanwhile; the checksums tell.
    std::atomic_thread_fence(std::memory_order_acquire);
    copy_bytes(destination.data(), segment_->base_[rank] + offset, destination.size());
    std::atomic_thread_fence(std::memory_order_acquire);
    return;
  }
  Staged& transfer = in_flight_.emplace_back();
  transfer.owner = owner;
  transfer.destination = destination;
  transfer.staging.resize(destination.size());
  for (std::size_t start = 0; start < destination.size(); start += largest_transfer) {
    const int count = count_cast(std::min(largest_transfer, destination.size() - start));
    const auto place = static_cast<MPI_Aint>(segment_->displacement_[rank] + offset + start);
    SUPERNODE_MPI(MPI_Rget(transfer.staging.data() + start, count, MPI_BYTE, owner, place, count, MPI_BYTE,
                           segment_->window_.get(), &transfer.requests.emplace_back(MPI_REQUEST_NULL)));
  }
}

std::uint64_t Transfers::put(int owner, std::uint64_t offset, std::span<const std::byte> source) {
  if (source.empty()) return checksum_of(source);
  const auto rank = static_cast<std::size_t>(owner);
  if (segment_->shared_) {
    const std::uint64_t sum = copy_with_checksum(segment_->base_[rank] + offset, source);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return sum;
  }
  Staged& transfer = in_flight_.emplace_back();
  transfer.owner = owner;
  transfer.staging.reserve(source.size() + 1);  // it must not move any more
  transfer.staging.assign(source.begin(), source.end());
  for (std::size_t start = 0; start < source.size(); start += largest_transfer) {
    const int count = count_cast(std::min(largest_transfer, source.size() - start));
    const auto place = static_cast<MPI_Aint>(segment_->displacement_[rank] + offset + start);
    SUPERNODE_MPI(MPI_Rput(transfer.staging.data() + start, count, MPI_BYTE, owner, place, count, MPI_BYTE,
                           segment_->window_.get(), &transfer.requests.emplace_back(MPI_REQUEST_NULL)));
  }
  // Open MPI's osc/pt2pt gathers small puts and sends them with the next flush, which may block, or with the next get
  // that has a request, which does not. The byte itself is not looked at.
  transfer.staging.push_back({});
  SUPERNODE_MPI(MPI_Rget(&transfer.staging.back(), 1, MPI_BYTE, owner,
                         static_cast<MPI_Aint>(segment_->displacement_[rank] + offset), 1, MPI_BYTE,
                         segment_->window_.get(), &transfer.requests.emplace_back(MPI_REQUEST_NULL)));
  return checksum_of(source);
}

bool Transfers::test() {
  in_flight_.remove_if([](Staged& transfer) {
    if (!Segment::test(transfer)) return false;
    if (!transfer.destination.empty())
      std::memcpy(transfer.destination.data(), transfer.staging.data(), transfer.staging.size());
    return true;
  });
  return in_flight_.empty();
}

void Transfers::abandon(int owner) {
  for (auto it = in_flight_.begin(); it != in_flight_.end();) {
    const auto here = it++;
    if (here->owner == owner) segment_->abandoned_.splice(segment_->abandoned_.end(), in_flight_, here);
  }
}

}  // namespace supernode::pool::internal
