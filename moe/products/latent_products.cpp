// Compiled once for each target by Highway's foreach_target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "moe/products/latent_products.cpp"
// clang-format off
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

#include "moe/products/latent_products.hpp"

#include <algorithm>
#include <type_traits>

#include <hwy/cache_control.h>

HWY_BEFORE_NAMESPACE();
namespace supernode::moe::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
// At most 8 lanes: what columns are padded to.
using D = hn::CappedTag<float, latent_lane_unit>;
using V = hn::Vec<D>;

/// Keys that are worked on together: their rows stay in the second-level cache, their pages in the first-level TLB.
constexpr int key_block = 48;

/// A tile of scores in registers: `Keys` keys from `keys`, `Vectors` vectors of lanes.
template <int Keys, int Vectors>
HWY_INLINE void score_tile(const LatentProduct& p, const float* keys, const float* queries, float* scores) {
  const D d;
  const std::size_t step = hn::Lanes(d), lanes = static_cast<std::size_t>(p.lanes);
  V sums[Keys][Vectors];
  for (auto& row : sums)
    for (V& sum : row) sum = hn::Zero(d);
  for (int i = 0; i < p.width; ++i) {
    V query[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v)
      query[v] = hn::LoadU(d, queries + static_cast<std::size_t>(i) * lanes + static_cast<std::size_t>(v) * step);
#pragma GCC unroll 16
    for (int k = 0; k < Keys; ++k) {
      const V key = hn::Set(d, keys[k * p.stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[k][v] = hn::MulAdd(key, query[v], sums[k][v]);
    }
  }
  for (int k = 0; k < Keys; ++k)
    for (int v = 0; v < Vectors; ++v)
      hn::StoreU(sums[k][v], d, scores + static_cast<std::size_t>(k) * lanes + static_cast<std::size_t>(v) * step);
}

/// Fetches rows that are needed soon: they lie far apart, each a little of a token's values.
HWY_INLINE void ask_for(const LatentProduct& p, int first, int end) {
  constexpr int line = 64 / sizeof(float);
  for (int key = first; key < end; ++key)
    for (int i = 0; i < p.width; i += line) hwy::Prefetch(p.keys + key * p.stride + i);
}

template <int Vectors>
HWY_INLINE void score_columns(const LatentProduct& p, int first, int end, bool queries_are_first, const float* queries,
                              float* scores) {
  constexpr int most = 12 / Vectors;
  const auto tile = [&](auto keys, int key) HWY_ATTR {
    score_tile<decltype(keys)::value, Vectors>(p, p.keys + key * p.stride, queries,
                                               scores + static_cast<std::ptrdiff_t>(key) * p.lanes);
  };
  int key = first;
  for (; key + most <= end; key += most) {
    if (queries_are_first) ask_for(p, key + most, std::min(key + 2 * most, p.n_keys));
    tile(std::integral_constant<int, most>(), key);
  }
  for (; key + 3 <= end; key += 3) tile(std::integral_constant<int, 3>(), key);
  for (; key < end; ++key) tile(std::integral_constant<int, 1>(), key);
}

void latent_scores(const LatentProduct& p, const float* queries, float* scores) {
  const int step = static_cast<int>(hn::Lanes(D()));
  for (int first = 0; first < p.n_keys; first += key_block) {
    const int end = std::min(first + key_block, p.n_keys);
    int lane = 0;
    for (; lane + 2 * step <= p.lanes; lane += 2 * step)
      score_columns<2>(p, first, end, lane == 0, queries + lane, scores + lane);
    for (; lane < p.lanes; lane += step) score_columns<1>(p, first, end, lane == 0, queries + lane, scores + lane);
  }
}

void exponentials(float* scores, int n_keys, int lanes, float scale, float* sums) {
  const D d;
  const V scales = hn::Set(d, scale);
  const auto stride = static_cast<std::size_t>(lanes), keys = static_cast<std::size_t>(n_keys);
  for (std::size_t lane = 0; lane < stride; lane += hn::Lanes(d)) {
    float* const x = scores + lane;
    V top = hn::LoadU(d, x), sum = hn::Zero(d);
    for (std::size_t key = 1; key < keys; ++key) top = hn::Max(top, hn::LoadU(d, x + key * stride));
    // The difference first: it is exact for the largest element and small where it matters.
    for (std::size_t key = 0; key < keys; ++key) {
      const V e = hn::Exp(d, hn::Mul(hn::Sub(hn::LoadU(d, x + key * stride), top), scales));
      hn::StoreU(e, d, x + key * stride);
      sum = hn::Add(sum, e);
    }
    hn::StoreU(sum, d, sums + lane);
  }
}

/// A tile of contexts in registers, summed over keys [first, end).
template <int Lanes, int Vectors>
HWY_INLINE void context_tile(const LatentProduct& p, int first, int end, const float* latents, const float* scores,
                             float* context) {
  const D d;
  const std::size_t step = hn::Lanes(d), lora = static_cast<std::size_t>(p.lora);
  const auto at = [&](int l, int v) { return static_cast<std::size_t>(l) * lora + static_cast<std::size_t>(v) * step; };
  V sums[Lanes][Vectors];
  for (int l = 0; l < Lanes; ++l)
    for (int v = 0; v < Vectors; ++v) sums[l][v] = first == 0 ? hn::Zero(d) : hn::LoadU(d, context + at(l, v));
  for (int key = first; key < end; ++key) {
    V latent[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v)
      latent[v] =
          hn::LoadU(d, latents + key * p.stride + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(v) * step));
#pragma GCC unroll 4
    for (int l = 0; l < Lanes; ++l) {
      const V score = hn::Set(d, scores[static_cast<std::ptrdiff_t>(key) * p.lanes + l]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[l][v] = hn::MulAdd(score, latent[v], sums[l][v]);
    }
  }
  for (int l = 0; l < Lanes; ++l)
    for (int v = 0; v < Vectors; ++v) hn::StoreU(sums[l][v], d, context + at(l, v));
}

/// All columns of `Lanes` lanes.
template <int Lanes>
HWY_INLINE void context_rows(const LatentProduct& p, int first, int end, const float* scores, float* context) {
  const int step = static_cast<int>(hn::Lanes(D()));
  int c = 0;
  for (; c + 3 * step <= p.lora; c += 3 * step) context_tile<Lanes, 3>(p, first, end, p.keys + c, scores, context + c);
  for (; c + 2 * step <= p.lora; c += 2 * step) context_tile<Lanes, 2>(p, first, end, p.keys + c, scores, context + c);
  for (; c + step <= p.lora; c += step) context_tile<Lanes, 1>(p, first, end, p.keys + c, scores, context + c);
  for (; c < p.lora; ++c)
    for (int l = 0; l < Lanes; ++l) {
      float& sum = context[static_cast<std::ptrdiff_t>(l) * p.lora + c];
      if (first == 0) sum = 0;
      for (int key = first; key < end; ++key)
        sum += scores[static_cast<std::ptrdiff_t>(key) * p.lanes + l] * p.keys[key * p.stride + c];
    }
}

void latent_context(const LatentProduct& p, const float* scores, float* context) {
  for (int first = 0; first < p.n_keys; first += key_block) {
    const int end = std::min(first + key_block, p.n_keys);
    int lane = 0;
    for (; lane + 4 <= p.used_lanes; lane += 4)
      context_rows<4>(p, first, end, scores + lane, context + static_cast<std::ptrdiff_t>(lane) * p.lora);
    for (; lane < p.used_lanes; ++lane)
      context_rows<1>(p, first, end, scores + lane, context + static_cast<std::ptrdiff_t>(lane) * p.lora);
  }
}

}  // namespace supernode::moe::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace supernode::moe {
HWY_EXPORT(latent_scores);
HWY_EXPORT(exponentials);
HWY_EXPORT(latent_context);

void latent_scores(const LatentProduct& product, const float* queries, float* scores) {
  HWY_DYNAMIC_DISPATCH(latent_scores)(product, queries, scores);
}
void exponentials(float* scores, int n_keys, int lanes, float scale, float* sums) {
  HWY_DYNAMIC_DISPATCH(exponentials)(scores, n_keys, lanes, scale, sums);
}
void latent_context(const LatentProduct& product, const float* scores, float* context) {
  HWY_DYNAMIC_DISPATCH(latent_context)(product, scores, context);
}

}  // namespace supernode::moe
#endif
