// Compiled once for each target by Highway's foreach_target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "moe/products/panel_product.cpp"
// clang-format off
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>
// clang-format on

#include "moe/products/panel_product.hpp"

#include <algorithm>
#include <type_traits>

#include <hwy/cache_control.h>

#include "moe/products/bf16.hpp"

#ifndef SUPERNODE_MOE_PANEL_SHAPES
#define SUPERNODE_MOE_PANEL_SHAPES
namespace supernode::moe {
/// Words of a panel for one input, in both formats.
constexpr int panel_words = 8;
/// Words that are asked for before they are needed: the memory then works while the sums do.
constexpr std::size_t words_ahead = 1024;
/// Rows that go over all weights together: they stay in the second-level cache. A multiple of the largest tile.
constexpr int row_block = 45;

/// Words of a panel in bf16. Panels are read side by side; a line between them keeps them out of each other's way in
/// the cache, where equal places in pages collide.
inline std::size_t halves_stride(int n_in) {
  constexpr std::size_t line = 16, page = 1024;
  const std::size_t words = static_cast<std::size_t>(n_in) * panel_words;
  return words % page == 0 ? words + line : words;
}
}  // namespace supernode::moe
#endif

HWY_BEFORE_NAMESPACE();
namespace supernode::moe::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, panel_words>;
using V = hn::Vec<D>;
constexpr std::size_t lanes = hn::MaxLanes(D());
constexpr int parts = panel_words / static_cast<int>(lanes);  // vectors in panel_words lanes

/// Panels of 8 outputs in f32.
struct Floats {
  using Word = float;
  static constexpr int vectors = parts;
  static HWY_INLINE void load(const Word* words, V* out) {
#pragma GCC unroll 4
    for (int part = 0; part < parts; ++part) out[part] = hn::LoadU(D(), words + static_cast<std::size_t>(part) * lanes);
  }
};

/// Panels of 16 outputs in bf16.
struct Halves {
  using Word = std::uint32_t;
  static constexpr int vectors = 2 * parts;
  static HWY_INLINE void load(const Word* words, V* out) {
    const hn::RebindToUnsigned<D> integers;
    const auto high = hn::Set(integers, 0xffff0000u);
#pragma GCC unroll 4
    for (int part = 0; part < parts; ++part) {
      const auto pair = hn::LoadU(integers, words + static_cast<std::size_t>(part) * lanes);
      out[part] = hn::BitCast(D(), hn::ShiftLeft<16>(pair));
      out[parts + part] = hn::BitCast(D(), hn::And(pair, high));
    }
  }
};

template <class Format>
struct Operands {
  const typename Format::Word* words;
  std::size_t stride;  ///< words of a panel
  int n_out, n_in;
  const float* x;
  float* y;
  const typename Format::Word* next;  ///< of the matrix that is multiplied after this one; null: not known

  static constexpr int outputs = Format::vectors * static_cast<int>(lanes);  ///< of a panel
  int panels() const { return (n_out + outputs - 1) / outputs; }
};

/// `Rows` rows times `Panels` panels, in registers.
/// @param ahead words that are asked for meanwhile: how far behind `first_panel`'s, or at another matrix's begin
template <int Rows, int Panels, class Format>
HWY_INLINE void tile(const Operands<Format>& o, int first_row, int first_panel, const typename Format::Word* ahead) {
  const D d;
  constexpr int vectors = Format::vectors;
  constexpr std::size_t inputs_of_line = 64 / sizeof(typename Format::Word) / panel_words;
  const std::size_t n_in = static_cast<std::size_t>(o.n_in), row = static_cast<std::size_t>(first_row);
  const typename Format::Word* const words = o.words + static_cast<std::size_t>(first_panel) * o.stride;
  const float* const x = o.x + row * n_in;
  V sums[Rows][Panels * vectors];
  for (auto& row_sums : sums)
    for (V& sum : row_sums) sum = hn::Zero(d);
  const auto add_input = [&](std::size_t i) HWY_ATTR {
    // Each row's value is loaded where it is used: with five rows there are hardly registers to keep them in.
    V weights[Panels * vectors];
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p)
      Format::load(words + static_cast<std::size_t>(p) * o.stride + i * panel_words, weights + p * vectors);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const V value = hn::Set(d, x[static_cast<std::size_t>(r) * n_in + i]);
#pragma GCC unroll 8
      for (int v = 0; v < Panels * vectors; ++v) sums[r][v] = hn::MulAdd(value, weights[v], sums[r][v]);
    }
  };
  std::size_t i = 0;
  for (; i + inputs_of_line <= n_in; i += inputs_of_line) {
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) hwy::Prefetch(ahead + static_cast<std::size_t>(p) * o.stride + i * panel_words);
#pragma GCC unroll 4
    for (std::size_t j = 0; j < inputs_of_line; ++j) add_input(i + j);
  }
  for (; i < n_in; ++i) add_input(i);
  const int first_out = first_panel * o.outputs, count = std::min(Panels * o.outputs, o.n_out - first_out);
  for (int r = 0; r < Rows; ++r) {
    float* const y = o.y + (row + static_cast<std::size_t>(r)) * static_cast<std::size_t>(o.n_out) + first_out;
    if (count == Panels * o.outputs) {
      for (std::size_t v = 0; v < Panels * vectors; ++v) hn::StoreU(sums[r][v], d, y + v * lanes);
    } else {
      HWY_ALIGN float values[static_cast<std::size_t>(Panels * vectors) * lanes];
      for (std::size_t v = 0; v < Panels * vectors; ++v) hn::Store(sums[r][v], d, values + v * lanes);
      std::copy_n(values, count, y);
    }
  }
}

/// Asks for a matrix's first words, which nothing may have asked for yet.
template <class Format>
HWY_INLINE void begin(const Operands<Format>& o) {
  const std::size_t words = std::min(words_ahead, static_cast<std::size_t>(o.panels()) * o.stride);
  for (std::size_t word = 0; word < words; word += 64 / sizeof(typename Format::Word)) hwy::Prefetch(o.words + word);
}

/// All outputs of `Rows` rows. `Panels` at a time, so that there are enough sums to hide the latency of each.
template <int Rows, int Panels, class Format>
HWY_INLINE void all_outputs(const Operands<Format>& o) {
  const int panels = o.panels();
  int panel = 0;
  // Panels are read side by side: where they are short, what comes next is not further down but the next tile.
  const auto run = [&](auto count) HWY_ATTR {
    const typename Format::Word* const words = o.words + static_cast<std::size_t>(panel) * o.stride;
    const int after = panel + count;
    const typename Format::Word* ahead = words + words_ahead;
    if (o.stride <= 2 * words_ahead) {
      ahead = words + static_cast<std::size_t>(count) * o.stride;
      if (after >= panels && o.next) ahead = o.next;
    }
    tile<Rows, decltype(count)::value>(o, 0, panel, ahead);
    panel = after;
  };
  // A single panel would wait for its sums: five at the end are three and two.
  while (panels - panel >= Panels && (Panels != 4 || panels - panel != 5)) run(std::integral_constant<int, Panels>());
  if (Panels == 4 && panels - panel >= 3) run(std::integral_constant<int, 3>());
  if (Panels == 4 && panels - panel == 2) run(std::integral_constant<int, 2>());
  while (panels > panel) run(std::integral_constant<int, 1>());
}

void multiply_panels(const float* panels, int n_out, int n_in, const float* x, int rows, float* y) {
  const std::size_t stride =
      static_cast<std::size_t>((n_in + panel_words - 1) / panel_words) * panel_words * panel_words;
  const Operands<Floats> o{panels, stride, n_out, n_in, x, y, nullptr};
  begin(o);
  switch (rows) {
    case 1:
      return all_outputs<1, 8>(o);
    case 2:
      return all_outputs<2, 4>(o);
    case 3:
      return all_outputs<3, 4>(o);
    default:
      return all_outputs<4, 3>(o);
  }
}

/// Rows [first, end), at least 3, of a panel.
HWY_INLINE void column(const Operands<Halves>& o, int first, int end, int panel) {
  const std::uint32_t* const ahead = o.words + static_cast<std::size_t>(panel) * o.stride + words_ahead;
  // Tiles of five and four have enough sums to hide the latency of each, and leave registers to load ahead: GCC keeps
  // the sums of a sixth row in memory. Tiles of one and two would wait for their sums.
  for (int row = first; row < end;) {
    const int left = end - row;
    if (left == 5 || (left >= 9 && left != 11)) {
      tile<5, 1>(o, row, panel, ahead);
      row += 5;
    } else if (left == 3 || left == 6) {
      tile<3, 1>(o, row, panel, ahead);
      row += 3;
    } else {
      tile<4, 1>(o, row, panel, ahead);
      row += 4;
    }
  }
}

void multiply_halves(const std::uint32_t* words, int n_out, int n_in, const float* x, int rows, float* y,
                     const std::uint32_t* next) {
  const Operands<Halves> o{words, halves_stride(n_in), n_out, n_in, x, y, next};
  begin(o);
  if (rows == 1) return all_outputs<1, 4>(o);
  if (rows == 2) return all_outputs<2, 2>(o);
  for (int first = 0; first < rows;) {
    const int end = rows - first < 2 * row_block ? rows : first + row_block;
    for (int panel = 0; panel < o.panels(); ++panel) column(o, first, end, panel);
    first = end;
  }
}

}  // namespace supernode::moe::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace supernode::moe {
HWY_EXPORT(multiply_panels);
HWY_EXPORT(multiply_halves);

void multiply_panels(const float* panels, int n_out, int n_in, const float* x, int rows, float* y) {
  HWY_DYNAMIC_DISPATCH(multiply_panels)(panels, n_out, n_in, x, rows, y);
}

HalfMatrix::HalfMatrix(std::span<const float> weights, int n_out, int n_in) : n_out_(n_out), n_in_(n_in) {
  constexpr std::size_t outputs = 2 * panel_words;
  const auto width = static_cast<std::size_t>(n_in), rows = static_cast<std::size_t>(n_out);
  words_.resize((rows + outputs - 1) / outputs * halves_stride(n_in));
  std::vector<std::uint16_t> row(width);
  for (std::size_t o = 0; o < rows; ++o) {
    to_bf16(weights.subspan(o * width, width), row.data());
    const std::size_t place = o % outputs, shift = place < panel_words ? 0 : 16;
    std::uint32_t* const words = words_.data() + o / outputs * halves_stride(n_in) + place % panel_words;
    for (std::size_t i = 0; i < width; ++i) words[i * panel_words] |= static_cast<std::uint32_t>(row[i]) << shift;
  }
}

void HalfMatrix::multiply(const float* x, int rows, float* y, const HalfMatrix* next) const {
  HWY_DYNAMIC_DISPATCH(multiply_halves)(words_.data(), n_out_, n_in_, x, rows, y, next ? next->words_.data() : nullptr);
}

}  // namespace supernode::moe
#endif
