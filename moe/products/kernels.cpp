// Compiled once for each target by Highway's foreach_target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "moe/products/kernels.cpp"
// clang-format off
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

#include "moe/products/kernels.hpp"

#include <cmath>

HWY_BEFORE_NAMESPACE();
namespace supernode::moe::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

/// Calls `body(i)` for full vectors and `rest(i, count)` once for what is left.
template <class Body, class Rest>
HWY_INLINE void by_vectors(std::size_t n, Body&& body, Rest&& rest) {
  const std::size_t lanes = hn::Lanes(D());
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i);
  if (i < n) rest(i, n - i);
}

/// The first `count` lanes of x, zero beyond.
HWY_INLINE V load_part(const float* x, std::size_t count) {
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  for (std::size_t i = 0; i < count; ++i) lanes[i] = x[i];
  return hn::Load(D(), lanes);
}

HWY_INLINE void store_part(V value, std::size_t count, float* y) {
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(value, D(), lanes);
  for (std::size_t i = 0; i < count; ++i) y[i] = lanes[i];
}

/// y[i] = f(i-th vector), also for the part of a vector at the end.
template <class F>
HWY_INLINE void map(std::size_t n, float* y, F&& f) {
  by_vectors(
      n,
      [&](std::size_t i)
          HWY_ATTR { hn::StoreU(f([&](const float* x) HWY_ATTR { return hn::LoadU(D(), x + i); }), D(), y + i); },
      [&](std::size_t i, std::size_t count)
          HWY_ATTR { store_part(f([&](const float* x) HWY_ATTR { return load_part(x + i, count); }), count, y + i); });
}

void rms_norm(const float* x, const float* weight, float eps, std::size_t n, float* y) {
  const D d;
  V sum = hn::Zero(d);
  by_vectors(
      n,
      [&](std::size_t i) HWY_ATTR {
        const V v = hn::LoadU(d, x + i);
        sum = hn::MulAdd(v, v, sum);
      },
      [&](std::size_t i, std::size_t count) HWY_ATTR {
        const V v = load_part(x + i, count);
        sum = hn::MulAdd(v, v, sum);
      });
  const float mean = hn::GetLane(hn::SumOfLanes(d, sum)) / static_cast<float>(n);
  const V scale = hn::Set(d, 1.0f / std::sqrt(mean + eps));
  map(n, y, [&](auto&& at) HWY_ATTR { return hn::Mul(hn::Mul(at(x), scale), at(weight)); });
}

void silu_gate(const float* gate_up, std::size_t n, float* y) {
  const D d;
  const V one = hn::Set(d, 1.0f);
  map(n, y, [&](auto&& at) HWY_ATTR {
    const V gate = at(gate_up), up = at(gate_up + n);
    return hn::Mul(hn::Div(gate, hn::Add(one, hn::Exp(d, hn::Neg(gate)))), up);
  });
}

void softmax(float* x, float scale, std::size_t n) {
  const D d;
  V tops = hn::Set(d, x[0]);
  float top = x[0];
  by_vectors(
      n, [&](std::size_t i) HWY_ATTR { tops = hn::Max(tops, hn::LoadU(d, x + i)); },
      [&](std::size_t i, std::size_t count) HWY_ATTR {
        for (; count > 0; ++i, --count) top = x[i] > top ? x[i] : top;
      });
  const V scales = hn::Set(d, scale), shift = hn::Max(hn::MaxOfLanes(d, tops), hn::Set(d, top));
  V sum = hn::Zero(d);
  // The difference first: it is exact for the largest element and small where it matters.
  by_vectors(
      n,
      [&](std::size_t i) HWY_ATTR {
        const V e = hn::Exp(d, hn::Mul(hn::Sub(hn::LoadU(d, x + i), shift), scales));
        hn::StoreU(e, d, x + i);
        sum = hn::Add(sum, e);
      },
      [&](std::size_t i, std::size_t count) HWY_ATTR {
        const V e = hn::Exp(d, hn::Mul(hn::Sub(load_part(x + i, count), shift), scales));
        store_part(e, count, x + i);
        sum = hn::Add(sum, load_part(x + i, count));
      });
  const V factor = hn::Set(d, 1.0f / hn::GetLane(hn::SumOfLanes(d, sum)));
  map(n, x, [&](auto&& at) HWY_ATTR { return hn::Mul(at(x), factor); });
}

void dequantise(float row_scale, const float* scales, std::size_t n, float* y) {
  const hn::RebindToSigned<D> integers;
  const V factor = hn::Set(D(), row_scale);
  map(n, y, [&](auto&& at) HWY_ATTR {
    const V value = hn::ConvertTo(D(), hn::BitCast(integers, at(y)));
    return hn::Mul(value, hn::Mul(factor, at(scales)));
  });
}

void add(const float* x, std::size_t n, float* y) {
  map(n, y, [&](auto&& at) HWY_ATTR { return hn::Add(at(x), at(y)); });
}

void scale_by(float factor, std::size_t n, float* y) {
  const V f = hn::Set(D(), factor);
  map(n, y, [&](auto&& at) HWY_ATTR { return hn::Mul(f, at(y)); });
}

void add_scaled(float weight, const float* x, std::size_t n, float* y) {
  const V w = hn::Set(D(), weight);
  map(n, y, [&](auto&& at) HWY_ATTR { return hn::MulAdd(w, at(x), at(y)); });
}

}  // namespace supernode::moe::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace supernode::moe {
HWY_EXPORT(rms_norm);
HWY_EXPORT(silu_gate);
HWY_EXPORT(softmax);
HWY_EXPORT(dequantise);
HWY_EXPORT(add);
HWY_EXPORT(add_scaled);
HWY_EXPORT(scale_by);

void rms_norm(const float* x, const float* weight, float eps, std::size_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(rms_norm)(x, weight, eps, n, y);
}
void silu_gate(const float* gate_up, std::size_t n, float* y) { HWY_DYNAMIC_DISPATCH(silu_gate)(gate_up, n, y); }
void softmax(float* x, float scale, std::size_t n) { HWY_DYNAMIC_DISPATCH(softmax)(x, scale, n); }
void dequantise(float row_scale, const float* scales, std::size_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(dequantise)(row_scale, scales, n, y);
}
void add(const float* x, std::size_t n, float* y) { HWY_DYNAMIC_DISPATCH(add)(x, n, y); }
void scale_by(float factor, std::size_t n, float* y) { HWY_DYNAMIC_DISPATCH(scale_by)(factor, n, y); }
void add_scaled(float weight, const float* x, std::size_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(add_scaled)(weight, x, n, y);
}

}  // namespace supernode::moe
#endif
