// Compiled once for each target by Highway's foreach_target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "moe/products/kept_keys.cpp"
// clang-format off
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>
// clang-format on

#include "moe/products/kept_keys.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>

#include <hwy/cache_control.h>

#ifndef SUPERNODE_MOE_KEPT_KEYS_ONCE
#define SUPERNODE_MOE_KEPT_KEYS_ONCE
namespace supernode::moe {
constexpr int unit_tokens = KeptLayout::unit_tokens, group_tokens = KeptLayout::group_tokens;

/// A product of sizes, as an offset.
constexpr std::size_t offset_of(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

/// A unit of the product: tokens [first, first + tokens).
struct KeptUnit {
  const KeptProduct& product;
  const float* keys;
  int first, tokens;
  const float* values() const { return keys + product.layout.key_floats(); }
};
}  // namespace supernode::moe
#endif

HWY_BEFORE_NAMESPACE();
namespace supernode::moe::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, KeptLayout::value_unit>;
using V = hn::Vec<D>;
constexpr int lanes = static_cast<int>(hn::MaxLanes(D()));

/// A loaded value that several sums use. GCC would load it once for each of them, and loads are what two rows run out
/// of.
HWY_INLINE V in_register(V value) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR  // theirs are arrays, not registers
  asm("" : "+x"(value.raw));
#endif
  return value;
}

/// Scores of two vectors of a group's tokens, from `column`, for `Rows` queries and `Heads` heads from `head`.
/// @param scores [rows, heads, unit_tokens], from the group's first token
template <int Rows, int Heads>
HWY_INLINE void score_tile(const KeptLayout& layout, const float* group, int column, int head, const float* queries,
                           float* scores) {
  const D d;
  const std::size_t head_keys = offset_of(layout.nope, group_tokens), qk = static_cast<std::size_t>(layout.qk());
  const std::size_t row_queries = offset_of(layout.heads, layout.qk());
  const float* const q = queries + offset_of(head, layout.qk());
  V sums[Rows][Heads][2];
  for (auto& row : sums)
    for (auto& head_sums : row) head_sums[0] = head_sums[1] = hn::Zero(d);
  const auto add = [&](int h, int i, V low, V high) HWY_ATTR {
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) {
      const V value = hn::Set(d, q[static_cast<std::size_t>(r) * row_queries + static_cast<std::size_t>(h) * qk +
                                   static_cast<std::size_t>(i)]);
      sums[r][h][0] = hn::MulAdd(value, low, sums[r][h][0]);
      sums[r][h][1] = hn::MulAdd(value, high, sums[r][h][1]);
    }
  };
  const float* keys = group + static_cast<std::size_t>(head) * head_keys + column;
  for (int i = 0; i < layout.nope; ++i, keys += group_tokens) {
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h) {
      const float* const key = keys + static_cast<std::size_t>(h) * head_keys;
      hwy::Prefetch(key + layout.group_floats());
      add(h, i, in_register(hn::LoadU(d, key)), in_register(hn::LoadU(d, key + lanes)));
    }
  }
  const float* rotated = group + static_cast<std::size_t>(layout.heads) * head_keys + column;
  for (int i = layout.nope; i < layout.qk(); ++i, rotated += group_tokens) {
    const V low = hn::LoadU(d, rotated), high = hn::LoadU(d, rotated + lanes);
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h) add(h, i, low, high);
  }
  for (int r = 0; r < Rows; ++r)
    for (int h = 0; h < Heads; ++h) {
      float* const to = scores + offset_of(r * layout.heads + head + h, unit_tokens) + column;
      hn::StoreU(sums[r][h][0], d, to);
      hn::StoreU(sums[r][h][1], d, to + lanes);
    }
}

/// Weighted values of a unit added to `out`, for `Rows` queries and `Heads` heads from `head`: `Vectors` vectors from
/// `column`. @param weights [rows, heads, unit_tokens]
template <int Rows, int Heads, int Vectors>
HWY_INLINE void value_tile(const KeptUnit& unit, int head, int column, const float* weights, float* out) {
  const D d;
  const KeptLayout& layout = unit.product.layout;
  const std::size_t width = static_cast<std::size_t>(layout.padded_v()), head_values = width * unit_tokens;
  const std::size_t row_weights = offset_of(layout.heads, unit_tokens);
  const int count = std::min(Vectors * lanes, layout.v - column);
  const bool whole = Vectors * lanes == 1 || count == Vectors * lanes;
  const auto each = [&](auto&& body) HWY_ATTR {
    for (int r = 0; r < Rows; ++r)
      for (int h = 0; h < Heads; ++h) body(r, h, out + offset_of(r * layout.heads + head + h, layout.v) + column);
  };
  V sums[Rows][Heads][Vectors];
  HWY_ALIGN float part[Vectors * lanes] = {};
  each([&](int r, int h, const float* from) HWY_ATTR {
    if (unit.first > 0 && !whole) from = std::copy_n(from, count, part) - count;
    for (int v = 0; v < Vectors; ++v) sums[r][h][v] = unit.first == 0 ? hn::Zero(d) : hn::LoadU(d, from + v * lanes);
  });
  const float* value = unit.values() + static_cast<std::size_t>(head) * head_values + column;
  const float* weight = weights + offset_of(head, unit_tokens);
  for (int token = 0; token < unit.tokens; ++token, value += width, ++weight) {
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h) {
      V loaded[Vectors];
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v)
        loaded[v] = in_register(hn::LoadU(d, value + static_cast<std::size_t>(h) * head_values + v * lanes));
#pragma GCC unroll 2
      for (int r = 0; r < Rows; ++r) {
        const V w = hn::Set(d, weight[static_cast<std::size_t>(r) * row_weights + offset_of(h, unit_tokens)]);
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) sums[r][h][v] = hn::MulAdd(w, loaded[v], sums[r][h][v]);
      }
    }
  }
  each([&](int r, int h, float* to) HWY_ATTR {
    if (whole) {
      for (int v = 0; v < Vectors; ++v) hn::StoreU(sums[r][h][v], d, to + v * lanes);
    } else {
      for (int v = 0; v < Vectors; ++v) hn::Store(sums[r][h][v], d, part + v * lanes);
      std::copy_n(part, count, to);
    }
  });
}

/// body(std::integral_constant<int, heads>, first head) for all heads, at most `Most` at a time.
template <int Most, class Body>
HWY_INLINE void by_heads(int heads, Body&& body) {
  int head = 0;
  for (; head + Most <= heads; head += Most) body(std::integral_constant<int, Most>(), head);
  for (; head < heads; ++head) body(std::integral_constant<int, 1>(), head);
}

/// 2^x for x <= 0; zero below 2^-126. Relative error below 4e-7: a third of the instructions of Highway's Exp, which
/// serves all arguments. The polynomial is the Taylor series of 2^f on |f| <= 1/2.
HWY_INLINE V power_of_two(V x) {
  const D d;
  const hn::RebindToSigned<D> integers;
  const V whole_at = hn::Set(d, 12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const V shifted = hn::Add(x, whole_at);
  const V f = hn::Sub(x, hn::Sub(shifted, whole_at));
  V p = hn::Set(d, 1.5403530e-4f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.3333558e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.6181291e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.5504109e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.4022651e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.9314718e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const V power = hn::BitCast(d, hn::Add(hn::BitCast(integers, p), hn::ShiftLeft<23>(hn::BitCast(integers, shifted))));
  return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -126.0f)), power);
}

/// Turns scores [unit_tokens] into weights. The first `seen` count; the others weigh zero, which adds nothing to the
/// last bit. Scales what was summed before when a larger score comes.
HWY_INLINE void weigh(float* scores, int seen, float scale, float& top, float& sum, float* out, int v) {
  const D d;
  constexpr int together = 4;  // independent chains
  if (seen < unit_tokens)
    std::fill(scores + std::max(seen, 0), scores + unit_tokens, -std::numeric_limits<float>::infinity());
  V tops[together];
  for (int j = 0; j < together; ++j) tops[j] = hn::LoadU(d, scores + j * lanes);
  for (int i = together * lanes; i < unit_tokens; i += together * lanes)
#pragma GCC unroll 4
    for (int j = 0; j < together; ++j) tops[j] = hn::Max(tops[j], hn::LoadU(d, scores + i + j * lanes));
  const float larger = hn::GetLane(hn::MaxOfLanes(d, hn::Max(hn::Max(tops[0], tops[1]), hn::Max(tops[2], tops[3]))));
  if (larger > top) {
    if (sum > 0) {
      const float shrink = hn::GetLane(power_of_two(hn::Set(d, (top - larger) * scale)));
      sum *= shrink;
      for (int i = 0; i < v; ++i) out[i] *= shrink;
    }
    top = larger;
  }
  // The difference first: it is exact for the largest element and small where it matters.
  const V shift = hn::Set(d, top), scales = hn::Set(d, scale);
  V sums[together];
  for (V& part : sums) part = hn::Zero(d);
  for (int i = 0; i < unit_tokens; i += together * lanes) {
    V e[together];
#pragma GCC unroll 4
    for (int j = 0; j < together; ++j)
      e[j] = power_of_two(hn::Mul(hn::Sub(hn::LoadU(d, scores + i + j * lanes), shift), scales));
#pragma GCC unroll 4
    for (int j = 0; j < together; ++j) {
      hn::StoreU(e[j], d, scores + i + j * lanes);
      sums[j] = hn::Add(sums[j], e[j]);
    }
  }
  sum += hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]))));
}

template <int Rows>
void attend(const KeptProduct& p, float scale, const float* queries, float* scratch, float* out) {
  const KeptLayout& layout = p.layout;
  const int pairs = Rows * layout.heads;
  float *const scores = scratch, *const sums = scratch + offset_of(pairs, unit_tokens);
  float* const tops = sums + pairs;
  const float binary_scale = scale * 1.44269504f;  // to powers of two
  std::fill_n(sums, pairs, 0.0f);
  std::fill_n(tops, pairs, -std::numeric_limits<float>::infinity());
  p.by_units([&](const float* keys, int first, int tokens) HWY_ATTR {
    const KeptUnit unit{p, keys, first, tokens};
    for (int key = 0; key < tokens; key += group_tokens, keys += layout.group_floats())
      by_heads<4 / Rows>(layout.heads, [&](auto heads, int head) HWY_ATTR {
        for (int column = 0; column < group_tokens; column += 2 * lanes)
          score_tile<Rows, decltype(heads)::value>(layout, keys, column, head, queries, scores + key);
      });
    for (int row = 0, i = 0; row < Rows; ++row)
      for (int head = 0; head < layout.heads; ++head, ++i)
        weigh(scores + offset_of(i, unit_tokens), p.n_keys - Rows + row + 1 - first, binary_scale, tops[i], sums[i],
              out + offset_of(i, layout.v), layout.v);
    by_heads<4 / Rows>(layout.heads, [&](auto heads, int head) HWY_ATTR {
      int column = 0;
      for (; column + 2 * lanes <= layout.padded_v(); column += 2 * lanes)
        value_tile<Rows, decltype(heads)::value, 2>(unit, head, column, scores, out);
      for (; column < layout.padded_v(); column += lanes)
        value_tile<Rows, decltype(heads)::value, 1>(unit, head, column, scores, out);
    });
  });
  for (int i = 0; i < pairs; ++i) {
    const float factor = 1.0f / sums[i];
    for (int j = 0; j < layout.v; ++j) out[offset_of(i, layout.v) + static_cast<std::size_t>(j)] *= factor;
  }
}

void attend_kept(const KeptProduct& p, float scale, const float* queries, float* scratch, float* out) {
  p.rows == 1 ? attend<1>(p, scale, queries, scratch, out) : attend<2>(p, scale, queries, scratch, out);
}

}  // namespace supernode::moe::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace supernode::moe {
HWY_EXPORT(attend_kept);

KeptLayout::KeptLayout(const ModelConfig& c) : heads(c.n_heads), nope(c.nope_dim), rope(c.rope_dim), v(c.v_dim) {}

std::size_t KeptLayout::unit_floats() const { return key_floats() + offset_of(heads, padded_v()) * unit_tokens; }

bool keeps_keys(const ModelConfig& config) {
  const std::size_t floats = KeptLayout(config).unit_floats() / unit_tokens;
  return floats * sizeof(float) * static_cast<std::size_t>(config.n_layers) <= most_kept_bytes;
}

void keep_token(const KeptLayout& layout, float* unit, int token_of_unit, const float* keys_values,
                const float* rotated) {
  float* key = unit + layout.group_floats() * static_cast<std::size_t>(token_of_unit / group_tokens) +
               token_of_unit % group_tokens;
  float* value = unit + layout.key_floats() + offset_of(token_of_unit, layout.padded_v());
  for (int head = 0; head < layout.heads; ++head) {
    for (int i = 0; i < layout.nope; ++i, key += group_tokens) *key = *keys_values++;
    std::copy_n(keys_values, layout.v, value);
    keys_values += layout.v;
    value += offset_of(unit_tokens, layout.padded_v());
  }
  for (int i = 0; i < layout.rope; ++i, key += group_tokens) *key = rotated[i];
}

void attend_kept(const KeptProduct& product, float scale, const float* queries, float* scratch, float* out) {
  HWY_DYNAMIC_DISPATCH(attend_kept)(product, scale, queries, scratch, out);
}

}  // namespace supernode::moe
#endif
