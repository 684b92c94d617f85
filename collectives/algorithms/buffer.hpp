#pragma once
// Memory that is reserved at once and touched only where it is used.

#include <cstddef>
#include <memory>
#include <new>

#include "collectives/layout.hpp"

namespace supernode::collectives {

/// A fixed array of trivial T, not initialised (so that untouched pages stay away), aligned to a cache line or as said.
template <class T, std::size_t Alignment = line_bytes>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size)
      : data_(static_cast<T*>(::operator new (size * sizeof(T), std::align_val_t{Alignment}))), size_(size) {}
  T* data() noexcept { return data_.get(); }
  const T* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return size_; }
  T& operator[](std::size_t i) noexcept { return data_.get()[i]; }
  const T& operator[](std::size_t i) const noexcept { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* data) const noexcept { ::operator delete (data, std::align_val_t{Alignment}); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace supernode::collectives
