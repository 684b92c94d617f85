#pragma once
// Space within an owner's payload area: segregated fit with coalescing. Book-keeping lies outside the area, which
// clients write.

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace supernode::pool::internal {

/// Blocks of whole granules. Free blocks hang in lists by size class: one class for each size below 16 granules, then 8
/// classes per power of two. A request takes a block of its own class if one of the first few fits, else one of the
/// smallest larger class that has any, and gives back the rest; freed neighbours merge at once. allocate and free are
/// O(1).
///
/// Waste: less than one granule inside a block. Free space is lost to a request only when no free block of its size is
/// left; equal sizes never fragment each other.
class Allocator {
 public:
  Allocator() : Allocator(0, 1) {}
  /// `capacity` is a multiple of `granule`, a power of two; fewer than 2^32 granules.
  Allocator(std::uint64_t capacity, std::uint64_t granule);

  /// The offset of a free block of at least max(bytes, 1) bytes, a multiple of the granule; empty when none is large
  /// enough.
  std::optional<std::uint64_t> allocate(std::uint64_t bytes);
  /// `offset` comes from allocate() and has not been freed since.
  void free(std::uint64_t offset);

  /// What allocate(bytes) takes: `bytes` in whole granules.
  std::uint64_t rounded(std::uint64_t bytes) const;
  std::uint64_t size_at(std::uint64_t offset) const;  ///< of an allocated block
  std::uint64_t capacity() const { return granules_ * granule_; }
  std::uint64_t reserved() const { return used_ * granule_; }
  std::uint64_t high_watermark() const { return high_ * granule_; }
  std::uint64_t largest_free() const;  ///< bytes, rounded down to its size class: for statistics

  /// Walks the whole area: blocks tile it, lists and neighbours agree, no two free blocks touch. O(granules); for
  /// tests.
  bool consistent() const;

 private:
  using Granule = std::uint32_t;
  static constexpr Granule none = ~Granule{0};
  static constexpr std::size_t classes = 256;

  static std::size_t class_of(Granule granules);
  void link(Granule head, Granule length);
  void unlink(Granule head);
  std::optional<Granule> take(Granule length);
  Granule first_in_larger_class(std::size_t size_class) const;

  std::uint64_t granules_ = 0, granule_ = 1, used_ = 0, high_ = 0;
  std::array<Granule, classes> heads_;                  ///< first free block of each class
  std::array<std::uint64_t, classes / 64> occupied_{};  ///< bit i: class i has a free block
  // By granule. Valid at a block's first granule; length_ and is_free_ also at its last one, for the neighbour above.
  std::vector<Granule> length_, next_, previous_;
  std::vector<bool> is_free_;
};

}  // namespace supernode::pool::internal
