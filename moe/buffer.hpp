#pragma once
// Uninitialised, cache-line aligned arrays for activations.

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <utility>

namespace supernode::moe {

namespace internal {
/// 64-byte aligned; large blocks on huge pages where the host gives some. Freed by free_block().
void* allocate_block(std::size_t bytes);
void free_block(void* block) noexcept;
}  // namespace internal

/// A product of sizes, as a size.
inline std::size_t product(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

/// Owns `size` trivially copyable elements, 64-byte aligned, uninitialised.
template <class T>
class Buffer {
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
    void operator()(T* data) const noexcept { internal::free_block(data); }
  };
  static std::unique_ptr<T[], Free> allocate(std::size_t size) {
    return std::unique_ptr<T[], Free>(static_cast<T*>(internal::allocate_block(size * sizeof(T))));
  }

  std::unique_ptr<T[], Free> data_;
  std::size_t size_ = 0;
};

}  // namespace supernode::moe
