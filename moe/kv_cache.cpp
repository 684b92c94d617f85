#include "moe/kv_cache.hpp"

#include <algorithm>
#include <cstring>

#include "moe/model_config.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {

KvCache::KvCache(int n_layers, int width, std::size_t kept_unit_floats)
    : n_layers_(n_layers),
      width_(width),
      kept_unit_floats_(kept_unit_floats),
      kept_(static_cast<std::size_t>(n_layers)) {}

void KvCache::reserve(int tokens) {
  values_.grow(static_cast<std::size_t>(tokens) * token_stride(), static_cast<std::size_t>(length_) * token_stride());
}

void KvCache::truncate(int tokens) {
  expect(tokens >= 0 && tokens <= length_, "KvCache::truncate beyond the length");
  length_ = tokens;
  forget_kept(tokens);
}

void KvCache::forget_kept(int tokens) {
  for (int& kept : kept_) kept = std::min(kept, tokens);
}

void KvCache::keep(int layer, int tokens) {
  expect(tokens <= length_ && kept_unit_floats_ > 0, "KvCache::keep");
  const auto units = [](std::size_t count) { return (count + kept_unit_tokens - 1) / kept_unit_tokens; };
  const std::size_t there = kept_values_.size();
  if (units(static_cast<std::size_t>(tokens)) * kept_stride() > there) {
    // Room for all tokens that the latents have room for, at once, since growing copies.
    kept_values_.grow(units(values_.size() / token_stride()) * kept_stride(), there);
    std::fill(kept_values_.data() + there, kept_values_.data() + kept_values_.size(), 0.0f);
  }
  int& kept = kept_[static_cast<std::size_t>(layer)];
  kept = std::max(kept, tokens);
}

float* KvCache::kept_units(int layer) noexcept {
  return kept_values_.data() + static_cast<std::size_t>(layer) * kept_unit_floats_;
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
  forget_kept(first);
  if (count > 0) std::memcpy(row(0, first), bytes.data(), bytes.size());
}

float* KvCache::row(int layer, int token) noexcept {
  return values_.data() + static_cast<std::size_t>(token) * token_stride() +
         static_cast<std::size_t>(layer) * static_cast<std::size_t>(width_);
}

const float* KvCache::row(int layer, int token) const noexcept { return const_cast<KvCache*>(this)->row(layer, token); }

std::size_t kv_bytes_per_token(const ModelConfig& config) {
  return KvCache(config.n_layers, config.kv_width()).bytes_per_token();
}

}  // namespace supernode::moe
