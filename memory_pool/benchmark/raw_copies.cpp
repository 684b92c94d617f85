#include "memory_pool/benchmark/raw_copies.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/shared_window.hpp"

namespace supernode::pool::internal {

RawWindow::RawWindow(const Communicator& comm, std::uint64_t bytes, WindowKind kind) {
  const WindowUse use{"the window of the benchmark's baseline, as large as the pool's memory,",
                      "choose a smaller pool.capacity"};
  SharedWindow memory =
      kind == WindowKind::shared ? allocate_shared_window(comm, comm, bytes, use) : allocate_window(comm, bytes, use);
  if (!memory.window) return;
  window_ = std::move(memory.window);
  SUPERNODE_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_.get()));
  take_window_pages(comm, {memory.own, bytes}, use);
  if (bytes > 0) std::memset(memory.own, 1, bytes);
}

RawWindow::~RawWindow() {
  if (window_) MPI_Win_unlock_all(window_.get());
}

void RawWindow::get(int owner, std::uint64_t offset, std::span<std::byte> to) {
  SUPERNODE_MPI(MPI_Get(to.data(), count_cast(to.size()), MPI_BYTE, owner, static_cast<MPI_Aint>(offset),
                        count_cast(to.size()), MPI_BYTE, window_.get()));
  SUPERNODE_MPI(MPI_Win_flush(owner, window_.get()));
}

void RawWindow::put(int owner, std::uint64_t offset, std::span<const std::byte> from) {
  SUPERNODE_MPI(MPI_Put(from.data(), count_cast(from.size()), MPI_BYTE, owner, static_cast<MPI_Aint>(offset),
                        count_cast(from.size()), MPI_BYTE, window_.get()));
  SUPERNODE_MPI(MPI_Win_flush(owner, window_.get()));
}

RawMemory::RawMemory(const Communicator& comm, std::vector<int> owners, std::uint64_t capacity, WindowKind most)
    : owners_(std::move(owners)),
      capacity_(capacity),
      own_bytes_(std::find(owners_.begin(), owners_.end(), comm.rank()) == owners_.end() ? 0 : capacity),
      allocated_(comm, own_bytes_, WindowKind::allocate) {
  if (most == WindowKind::shared) shared_ = std::make_unique<RawWindow>(comm, own_bytes_, WindowKind::shared);
}

bool RawMemory::has(RawCopy way) const {
  if (way == RawCopy::memory) return true;
  return way == RawCopy::mpi_allocate ? allocated_.ok() : shared_ && shared_->ok();
}

void RawMemory::touch() {
  local_.assign(capacity_, std::byte{1});
  const std::span<std::byte> all(local_);
  constexpr std::size_t piece = 1u << 20;
  for (const RawCopy way : {RawCopy::mpi_allocate, RawCopy::mpi_shared}) {
    if (!has(way)) continue;
    for (const int owner : owners_)
      for (std::size_t at = 0; at < all.size(); at += piece) {
        const std::span<std::byte> part = all.subspan(at, std::min(piece, all.size() - at));
        window(way).put(owner, at, part);
        window(way).get(owner, at, part);
      }
  }
}

double RawMemory::copy(RawCopy way, Direction direction, Draw& draw, std::span<std::byte> buffer) {
  const std::uint64_t number = draw.next();
  const std::uint64_t offset = mix64(number) % (capacity_ / buffer.size()) * buffer.size();
  const int owner = owners_[number % owners_.size()];
  const bool is_put = direction == Direction::put;
  if (is_put) fill_block(buffer, number, 0);  // warm in the cache, as before a put of the pool
  const WallTime start = wall_now();
  if (way == RawCopy::memory)
    std::memcpy(is_put ? local_.data() + offset : buffer.data(), is_put ? buffer.data() : local_.data() + offset,
                buffer.size());
  else if (is_put)
    window(way).put(owner, offset, buffer);
  else
    window(way).get(owner, offset, buffer);
  return (wall_now() - start).value;
}

}  // namespace supernode::pool::internal
