#include "moe/kv_cache.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/core/error.hpp"

namespace supernode::moe {

KvCache::KvCache(int n_layers, int width) : n_layers_(n_layers), width_(width) {}

void KvCache::reserve(int tokens) {
  values_.grow(static_cast<std::size_t>(tokens) * token_stride(), static_cast<std::size_t>(length_) * token_stride());
}

void KvCache::truncate(int tokens) {
  expect(tokens >= 0 && tokens <= length_, "KvCache::truncate beyond the length");
  length_ = tokens;
}

void KvCache::extend(int count) {
  reserve(length_ + count);
  length_ += count;
}

void KvCache::export_tokens(int first, int count, std::span<std::byte> out) const {
  expect(first >= 0 && count >= 0 && first + count <= length_, "KvCache::export_tokens outside the cache");
  expect(out.size() == static_cast<std::size_t>(count) * bytes_per_token(), "KvCache::export_tokens: size of out");
  if (count > 0) std::memcpy(out.data(), row(0, first), out.size());
}

void KvCache::import_tokens(int first, int count, std::span<const std::byte> bytes) {
  expect(first >= 0 && count >= 0 && first <= length_, "KvCache::import_tokens leaves a hole");
  expect(bytes.size() == static_cast<std::size_t>(count) * bytes_per_token(), "KvCache::import_tokens: size of bytes");
  if (first + count > length_) extend(first + count - length_);
  if (count > 0) std::memcpy(row(0, first), bytes.data(), bytes.size());
}

float* KvCache::row(int layer, int token) noexcept {
  return values_.data() + static_cast<std::size_t>(token) * token_stride() +
         static_cast<std::size_t>(layer) * static_cast<std::size_t>(width_);
}

const float* KvCache::row(int layer, int token) const noexcept { return const_cast<KvCache*>(this)->row(layer, token); }

}  // namespace supernode::moe
