#include "memory_pool/owner/allocator.hpp"

#include <algorithm>
#include <bit>

#include "runtime/core/error.hpp"

namespace supernode::pool::internal {

Allocator::Allocator(std::uint64_t capacity, std::uint64_t granule) : granules_(capacity / granule), granule_(granule) {
  expect(std::has_single_bit(granule) && capacity % granule == 0 && granules_ < none, "odd capacity or granule");
  heads_.fill(none);
  length_.resize(granules_);
  next_.resize(granules_);
  previous_.resize(granules_);
  is_free_.resize(granules_);
  if (granules_ > 0) link(0, static_cast<Granule>(granules_));
}

std::size_t Allocator::class_of(Granule granules) {
  if (granules < 8) return granules;
  const int log = std::bit_width(granules) - 1;
  return static_cast<std::size_t>((log - 2) * 8) + ((granules >> (log - 3)) & 7);
}

void Allocator::link(Granule head, Granule length) {
  const Granule tail = head + length - 1;
  length_[head] = length_[tail] = length;
  is_free_[head] = is_free_[tail] = true;
  const std::size_t size_class = class_of(length);
  next_[head] = heads_[size_class];
  previous_[head] = none;
  if (next_[head] != none) previous_[next_[head]] = head;
  heads_[size_class] = head;
  occupied_[size_class / 64] |= std::uint64_t{1} << (size_class % 64);
}

void Allocator::unlink(Granule head) {
  const Granule length = length_[head];
  const std::size_t size_class = class_of(length);
  if (next_[head] != none) previous_[next_[head]] = previous_[head];
  if (previous_[head] != none)
    next_[previous_[head]] = next_[head];
  else
    heads_[size_class] = next_[head];
  if (heads_[size_class] == none) occupied_[size_class / 64] &= ~(std::uint64_t{1} << (size_class % 64));
  is_free_[head] = is_free_[head + length - 1] = false;
}

Allocator::Granule Allocator::first_in_larger_class(std::size_t size_class) const {
  for (std::size_t word = (size_class + 1) / 64; word < occupied_.size(); ++word) {
    std::uint64_t bits = occupied_[word];
    if (word == (size_class + 1) / 64) bits &= ~std::uint64_t{0} << ((size_class + 1) % 64);
    if (bits != 0) return heads_[word * 64 + static_cast<std::size_t>(std::countr_zero(bits))];
  }
  return none;
}

std::optional<Allocator::Granule> Allocator::take(Granule length) {
  constexpr int looks = 8;
  const std::size_t size_class = class_of(length);
  Granule head = heads_[size_class];
  for (int look = 0; head != none && length_[head] < length; ++look) head = look < looks ? next_[head] : none;
  if (head == none) head = first_in_larger_class(size_class);
  // Before giving up, the rest of the own class: slow, but only where the alternative is to evict.
  if (head == none)
    for (head = heads_[size_class]; head != none && length_[head] < length;) head = next_[head];
  if (head == none) return std::nullopt;
  unlink(head);
  return head;
}

std::optional<std::uint64_t> Allocator::allocate(std::uint64_t bytes) {
  const std::uint64_t wanted = rounded(bytes) / granule_;
  if (wanted > granules_ - used_) return std::nullopt;
  const auto length = static_cast<Granule>(wanted);
  const std::optional<Granule> head = take(length);
  if (!head) return std::nullopt;
  const Granule found = length_[*head];
  if (found > length) link(*head + length, found - length);
  length_[*head] = length_[*head + length - 1] = length;
  used_ += length;
  high_ = std::max(high_, used_);
  return std::uint64_t{*head} * granule_;
}

void Allocator::free(std::uint64_t offset) {
  auto head = static_cast<Granule>(offset / granule_);
  expect(offset % granule_ == 0 && head < granules_ && !is_free_[head], "freed what is not allocated");
  Granule length = length_[head];
  used_ -= length;
  const Granule after = head + length;
  if (after < granules_ && is_free_[after]) {
    length += length_[after];
    unlink(after);
  }
  if (head > 0 && is_free_[head - 1]) {
    const Granule before = head - length_[head - 1];
    length += length_[before];
    unlink(before);
    head = before;
  }
  link(head, length);
}

std::uint64_t Allocator::rounded(std::uint64_t bytes) const {
  return (std::max<std::uint64_t>(bytes, 1) + granule_ - 1) & ~(granule_ - 1);
}

std::uint64_t Allocator::size_at(std::uint64_t offset) const { return length_[offset / granule_] * granule_; }

std::uint64_t Allocator::largest_free() const {
  for (std::size_t size_class = classes; size_class-- > 0;)
    if (heads_[size_class] != none) return length_[heads_[size_class]] * granule_;
  return 0;
}

bool Allocator::consistent() const {
  std::uint64_t free_blocks = 0, listed = 0, free_granules = 0;
  bool previous_free = false;
  for (std::uint64_t head = 0; head < granules_; head += length_[head]) {
    const std::uint64_t tail = head + length_[head] - 1;
    if (length_[head] == 0 || tail >= granules_ || length_[tail] != length_[head] || is_free_[tail] != is_free_[head])
      return false;
    if (is_free_[head] && previous_free) return false;
    previous_free = is_free_[head];
    if (previous_free) {
      ++free_blocks;
      free_granules += length_[head];
    }
  }
  for (std::size_t size_class = 0; size_class < classes; ++size_class) {
    const bool bit = (occupied_[size_class / 64] >> (size_class % 64)) & 1;
    if (bit != (heads_[size_class] != none)) return false;
    for (Granule head = heads_[size_class]; head != none; head = next_[head], ++listed)
      if (!is_free_[head] || class_of(length_[head]) != size_class) return false;
  }
  return listed == free_blocks && free_granules + used_ == granules_;
}

}  // namespace supernode::pool::internal
