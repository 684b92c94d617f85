#include "runtime/core/quantise.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

// Highway compiles the part between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE once for each instruction set, by
// including this file again and again; HWY_DYNAMIC_DISPATCH picks one when the program runs.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/core/quantise.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace supernode::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using I32 = hn::RebindToSigned<F32>;
using U32 = hn::RebindToUnsigned<F32>;

// The ends of rows that do not fill a vector are done one by one, with the same operations.
inline std::int8_t quantise_one(float x, float inverse) {
  const float scaled = std::nearbyintf(x * inverse);
  return static_cast<std::int8_t>(scaled > 127.0f ? 127.0f : scaled < -128.0f ? -128.0f : scaled);
}

inline std::uint16_t bf16_of(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (x != x) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float f32_of(std::uint16_t bf16) { return std::bit_cast<float>(std::uint32_t{bf16} << 16); }

/// The first of two passes over the row, so the one that fetches it. The processor's own prefetcher stops at the end of
/// each page; asking some lines ahead, in the end for the next row, keeps it going.
float MaxAbs(const float* row, std::size_t n) {
  constexpr std::size_t line = 16, distance = 64 * line;
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  auto m0 = hn::Zero(d), m1 = m0, m2 = m0, m3 = m0;
  std::size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (std::size_t ahead = 0; ahead < 4 * lanes; ahead += line) hwy::Prefetch(row + i + distance + ahead);
    m0 = hn::Max(m0, hn::Abs(hn::LoadU(d, row + i)));
    m1 = hn::Max(m1, hn::Abs(hn::LoadU(d, row + i + lanes)));
    m2 = hn::Max(m2, hn::Abs(hn::LoadU(d, row + i + 2 * lanes)));
    m3 = hn::Max(m3, hn::Abs(hn::LoadU(d, row + i + 3 * lanes)));
  }
  for (; i + lanes <= n; i += lanes) m0 = hn::Max(m0, hn::Abs(hn::LoadU(d, row + i)));
  float largest = hn::GetLane(hn::MaxOfLanes(d, hn::Max(hn::Max(m0, m1), hn::Max(m2, m3))));
  for (; i < n; ++i) largest = std::fmax(largest, std::fabs(row[i]));
  return largest;
}

#if HWY_TARGET != HWY_SCALAR
/// Nearest integers, ties to even, of values within +-2^31. Highway's own also mends what lies outside, for three
/// operations more.
HWY_INLINE hn::Vec<I32> RoundInRange(hn::Vec<F32> value) {
#if HWY_TARGET == HWY_AVX2
  return hn::Vec<I32>{_mm256_cvtps_epi32(value.raw)};
#else
  return hn::NearestInt(value);
#endif
}

/// Four vectors of 32-bit integers as one of bytes, saturated, in order.
template <class V>
HWY_INLINE auto BytesOf(V a, V b, V c, V e) {
  const hn::Repartition<std::int16_t, I32> di16;
  const hn::Repartition<std::int8_t, I32> di8;
  const hn::Half<decltype(di8)> half8;
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128
  // x86 packs block by block (128 bits); one permutation of 32-bit lanes, groups of four bytes, puts them in order.
  const I32 di32;
  const auto low = hn::ReorderDemote2To(di16, a, b), high = hn::ReorderDemote2To(di16, c, e);
  constexpr int blocks = static_cast<int>(hn::MaxLanes(di32)) / 4;
#if HWY_TARGET == HWY_AVX2
  // Block k of a, of b, of c, of e; then block k + 1 of each.
  const hn::Vec<decltype(di8)> packed{_mm256_packs_epi16(low.raw, high.raw)};
  [[maybe_unused]] static constexpr auto place = [](int vector, int block) { return 4 * block + vector; };
#else
  // Block k of a stands before block k of b, and so on; c and e follow behind all of them.
  const auto packed = hn::Combine(di8, hn::DemoteTo(half8, high), hn::DemoteTo(half8, low));
  [[maybe_unused]] static constexpr auto place = [](int vector, int block) {
    return (vector / 2) * 2 * blocks + 2 * block + vector % 2;
  };
#endif
  if constexpr (blocks == 1) {
    return packed;
  } else {
    alignas(64) static constexpr auto order = [] {
      std::array<std::int32_t, 4 * blocks> lanes{};
      for (int vector = 0; vector < 4; ++vector)
        for (int block = 0; block < blocks; ++block) lanes[vector * blocks + block] = place(vector, block);
      return lanes;
    }();
    return hn::BitCast(di8, hn::TableLookupLanes(hn::BitCast(di32, packed), hn::SetTableIndices(di32, order.data())));
  }
#else
  const hn::Half<decltype(di16)> half16;
  const auto low = hn::Combine(di16, hn::DemoteTo(half16, b), hn::DemoteTo(half16, a));
  const auto high = hn::Combine(di16, hn::DemoteTo(half16, e), hn::DemoteTo(half16, c));
  return hn::Combine(di8, hn::DemoteTo(half8, high), hn::DemoteTo(half8, low));
#endif
}
#endif  // HWY_SCALAR has no vectors to combine: all elements are done one by one there

void ConvertInt8(const float* row, std::size_t n, float inverse, std::byte* to) {
  auto* out = reinterpret_cast<std::int8_t*>(to);
  std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const F32 d;
  const hn::Repartition<std::int8_t, F32> di8;
  const std::size_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, inverse);
  const auto load = [&](std::size_t at) HWY_ATTR { return RoundInRange(hn::Mul(hn::LoadU(d, row + at), factor)); };
  for (; i + 4 * lanes <= n; i += 4 * lanes)
    hn::StoreU(BytesOf(load(i), load(i + lanes), load(i + 2 * lanes), load(i + 3 * lanes)), di8, out + i);
#endif
  for (; i < n; ++i) out[i] = quantise_one(row[i], inverse);
}

/// bf16 of a vector, one in each 32-bit lane.
HWY_INLINE hn::Vec<I32> Bf16Of(hn::Vec<F32> value) {
  const U32 du;
  const auto bits = hn::BitCast(du, value);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(du, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fff)), odd));
  const auto quiet = hn::Or(upper, hn::Set(du, 0x40));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(value));
  return hn::BitCast(I32(), hn::IfThenElse(is_nan, quiet, rounded));
}

void ConvertBf16(const float* row, std::size_t n, std::byte* to) {
  auto* out = reinterpret_cast<std::uint16_t*>(to);
  std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const F32 d;
  const hn::Repartition<std::uint16_t, F32> du16;
  const hn::Half<decltype(du16)> half;
  const std::size_t lanes = hn::Lanes(d);
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto low = hn::DemoteTo(half, Bf16Of(hn::LoadU(d, row + i)));
    const auto high = hn::DemoteTo(half, Bf16Of(hn::LoadU(d, row + i + lanes)));
    hn::StoreU(hn::Combine(du16, high, low), du16, out + i);
  }
#endif
  for (; i < n; ++i) out[i] = bf16_of(row[i]);
}

/// `to` begins a cache line when streaming: stores to a line follow one another, so that the processor sends whole
/// lines. Not memcpy: for these sizes glibc takes one string instruction, which some processors do at a fifth of their
/// speed when source and destination start a few bytes apart within their pages.
template <bool streaming>
void CopyBytes(const std::byte* from, std::size_t n, std::byte* to) {
  const hn::ScalableTag<std::uint8_t> d;
  const std::size_t lanes = hn::Lanes(d);
  const auto* in = reinterpret_cast<const std::uint8_t*>(from);
  auto* out = reinterpret_cast<std::uint8_t*>(to);
  std::size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto first = hn::LoadU(d, in + i), second = hn::LoadU(d, in + i + lanes);
    if constexpr (streaming) {
      hn::Stream(first, d, out + i);
      hn::Stream(second, d, out + i + lanes);
    } else {
      hn::StoreU(first, d, out + i);
      hn::StoreU(second, d, out + i + lanes);
    }
  }
  if (i < n) std::memcpy(out + i, in + i, n - i);
}

/// Writes a row to one destination directly, and to several in pieces that stay in the first-level cache: interleaved
/// stores to many places fill write buffers and cache sets with fractions of lines. Meanwhile what follows in memory,
/// mostly the next row, comes into the second-level cache, so that fetching it and storing this one take place
/// together: for rows that come from memory this saves 10 to 15 % of the time.
template <bool streaming>
void WriteRow(ElementType type, const float* row, std::size_t n, float inverse, std::byte* const* to,
              std::size_t n_to) {
  constexpr std::size_t piece = 2048, line = 16;
  alignas(64) std::byte scratch[piece * sizeof(std::uint16_t)];
  const std::size_t width = element_bytes(type);
  for (std::size_t begin = 0; begin < n; begin += piece) {
    const float* const from = row + begin;
    const std::size_t count = std::min(piece, n - begin);
    for (std::size_t ahead = 0; ahead < count; ahead += line) __builtin_prefetch(from + n + ahead, 0, 2);
    const bool in_place = n_to == 1 && !streaming;
    std::byte* const out = in_place ? to[0] + begin * width : scratch;
    const std::byte* done = out;
    if (type == ElementType::int8) {
      ConvertInt8(from, count, inverse, out);
    } else if (type == ElementType::bf16) {
      ConvertBf16(from, count, out);
    } else {
      done = reinterpret_cast<const std::byte*>(from);
    }
    if (in_place && type != ElementType::f32) continue;
    for (std::size_t k = 0; k < n_to; ++k) CopyBytes<streaming>(done, count * width, to[k] + begin * width);
  }
}

void WriteRowOrdinary(ElementType type, const float* row, std::size_t n, float inverse, std::byte* const* to,
                      std::size_t n_to) {
  WriteRow<false>(type, row, n, inverse, to, n_to);
}

void WriteRowStreaming(ElementType type, const float* row, std::size_t n, float inverse, std::byte* const* to,
                       std::size_t n_to) {
  WriteRow<true>(type, row, n, inverse, to, n_to);
}

HWY_INLINE hn::Vec<F32> LoadBf16(const std::uint16_t* from) {
  const hn::Rebind<std::uint16_t, F32> du16;
  return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(U32(), hn::LoadU(du16, from))));
}

void ReadRow(ElementType type, const std::byte* row, float scale, float* out, std::size_t n) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  if (type == ElementType::f32) {
    std::memcpy(out, row, n * sizeof(float));
  } else if (type == ElementType::bf16) {
    const auto* from = reinterpret_cast<const std::uint16_t*>(row);
    for (; i + lanes <= n; i += lanes) hn::StoreU(LoadBf16(from + i), d, out + i);
    for (; i < n; ++i) out[i] = f32_of(from[i]);
  } else {
    const auto* from = reinterpret_cast<const std::int8_t*>(row);
    const hn::Rebind<std::int8_t, F32> di8;
    const auto factor = hn::Set(d, scale);
    for (; i + lanes <= n; i += lanes)
      hn::StoreU(hn::Mul(hn::ConvertTo(d, hn::PromoteTo(I32(), hn::LoadU(di8, from + i))), factor), d, out + i);
    for (; i < n; ++i) out[i] = static_cast<float>(from[i]) * scale;
  }
}

void SumRows(ElementType type, const std::byte* const* rows, std::size_t n_rows, float* out, std::size_t n) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  if (type == ElementType::f32) {
    const auto row = [&](std::size_t k) { return reinterpret_cast<const float*>(rows[k]); };
    for (; i + lanes <= n; i += lanes) {
      auto sum = hn::LoadU(d, row(0) + i);
      for (std::size_t k = 1; k < n_rows; ++k) sum = hn::Add(sum, hn::LoadU(d, row(k) + i));
      hn::StoreU(sum, d, out + i);
    }
    for (; i < n; ++i) {
      float sum = row(0)[i];
      for (std::size_t k = 1; k < n_rows; ++k) sum += row(k)[i];
      out[i] = sum;
    }
  } else {
    const auto row = [&](std::size_t k) { return reinterpret_cast<const std::uint16_t*>(rows[k]); };
    for (; i + lanes <= n; i += lanes) {
      auto sum = LoadBf16(row(0) + i);
      for (std::size_t k = 1; k < n_rows; ++k) sum = hn::Add(sum, LoadBf16(row(k) + i));
      hn::StoreU(sum, d, out + i);
    }
    for (; i < n; ++i) {
      float sum = f32_of(row(0)[i]);
      for (std::size_t k = 1; k < n_rows; ++k) sum += f32_of(row(k)[i]);
      out[i] = sum;
    }
  }
}

}  // namespace supernode::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace supernode {
HWY_EXPORT(MaxAbs);
HWY_EXPORT(WriteRowOrdinary);
HWY_EXPORT(WriteRowStreaming);
HWY_EXPORT(ReadRow);
HWY_EXPORT(SumRows);

RowScale row_scale(ElementType type, std::span<const float> row) {
  if (type != ElementType::int8) return {};
  const float largest = HWY_DYNAMIC_DISPATCH(MaxAbs)(row.data(), row.size());
  if (!(largest > 1e-36f)) return {0, 0};  // 127 / largest would overflow
  return {largest / 127.0f, 127.0f / largest};
}

void write_row(ElementType type, std::span<const float> row, RowScale scale, std::span<std::byte* const> destinations,
               Stores stores) {
  const auto write =
      stores == Stores::streaming ? HWY_DYNAMIC_DISPATCH(WriteRowStreaming) : HWY_DYNAMIC_DISPATCH(WriteRowOrdinary);
  write(type, row.data(), row.size(), scale.inverse, destinations.data(), destinations.size());
}

void flush_stores() { hwy::FlushStream(); }

void read_row(ElementType type, const std::byte* row, float scale, std::span<float> out) {
  HWY_DYNAMIC_DISPATCH(ReadRow)(type, row, scale, out.data(), out.size());
}

void sum_rows(ElementType type, std::span<const std::byte* const> rows, std::span<float> out) {
  if (rows.empty()) {
    std::fill(out.begin(), out.end(), 0.0f);
  } else {
    HWY_DYNAMIC_DISPATCH(SumRows)(type, rows.data(), rows.size(), out.data(), out.size());
  }
}

}  // namespace supernode
#endif  // HWY_ONCE
