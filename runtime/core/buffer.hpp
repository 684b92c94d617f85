#pragma once
// Aligned arrays of plain values, not initialised: memory that is reserved at once and touched only where it is used.

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace supernode {

inline constexpr std::size_t cache_line_bytes = 64;

/// Elements of an array [a, b], as a size.
constexpr std::size_t product(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

/// On which pages a buffer lies. Small ones come into being one by one, where they are touched. Huge ones make reading
/// rows that lie far apart cheaper, but 2 MiB become resident at a time; a buffer below 4 MiB has small ones.
enum class Pages { small, huge };

namespace internal {
/// Aligned to `alignment`, a power of two; with huge pages where they are wanted and the host gives some.
/// @throws std::bad_alloc. Freed by free_block().
void* allocate_block(std::size_t bytes, std::size_t alignment, Pages pages);
void free_block(void* block) noexcept;
}  // namespace internal

/// Owns `size` elements of a trivially copyable T, aligned to a cache line or as said. Move-only.
template <class T, Pages pages = Pages::small, std::size_t alignment = cache_line_bytes>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  explicit Buffer(std::size_t size) : data_(allocate(size)), size_(size) {}

  T* data() noexcept { return data_.get(); }
  const T* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return size_; }
  std::span<T> span() noexcept { return {data(), size_}; }
  std::span<const T> span() const noexcept { return {data(), size_}; }
  T& operator[](std::size_t i) noexcept { return data_[i]; }
  const T& operator[](std::size_t i) const noexcept { return data_[i]; }

  /// At least `size` elements; grows by half or more at a time, the first `keep` elements survive.
  void grow(std::size_t size, std::size_t keep = 0) {
    if (size <= size_) return;
    Buffer larger(size > size_ + size_ / 2 ? size : size_ + size_ / 2);
    if (keep > 0) std::memcpy(larger.data(), data(), keep * sizeof(T));
    *this = std::move(larger);
  }

 private:
  struct Free {
    void operator()(T* data) const noexcept { internal::free_block(const_cast<std::remove_const_t<T>*>(data)); }
  };
  static std::unique_ptr<T[], Free> allocate(std::size_t size) {
    return std::unique_ptr<T[], Free>(static_cast<T*>(internal::allocate_block(size * sizeof(T), alignment, pages)));
  }

  std::unique_ptr<T[], Free> data_;
  std::size_t size_ = 0;
};

/// A buffer for what is large and read in rows: weights, activations, caches.
template <class T>
using HugePageBuffer = Buffer<T, Pages::huge>;

}  // namespace supernode
