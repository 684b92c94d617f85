#pragma once
// Keys and values by head that decode keeps beside the latents, and the products over them. Highway, run-time dispatch.
//
// Absorbed attention multiplies every cached token by queries as wide as the latent; over keys and values that stay
// expanded the same takes (nope + rope + v) / (2 lora + rope) of the multiplications, a third to a fifth, and reads
// many times the bytes. So it pays where these bytes come from a cache, and then one read serves a token and its guess
// alike: see keeps_keys().
//
// A query's bits do not depend on the other query of a call, nor on keys that it does not see.

#include <cstddef>

#include "moe/kv_cache.hpp"
#include "moe/model_config.hpp"

namespace supernode::moe {

/// Where a token's keys and values lie. Tokens of a layer come in units of `unit_tokens`:
///
///     keys    for each group of `group_tokens`: [heads, nope, group_tokens], [rope, group_tokens]
///     values  [heads, unit_tokens, padded_v()]
struct KeptLayout {
  static constexpr int unit_tokens = KvCache::kept_unit_tokens, group_tokens = 16, value_unit = 8;

  KeptLayout() = default;
  explicit KeptLayout(const ModelConfig& config);

  int heads = 0, nope = 0, rope = 0, v = 0;

  int qk() const { return nope + rope; }
  int padded_v() const { return (v + value_unit - 1) / value_unit * value_unit; }
  /// Keys of a group.
  std::size_t group_floats() const { return static_cast<std::size_t>(heads * nope + rope) * group_tokens; }
  /// Keys of a unit: its values begin behind them.
  std::size_t key_floats() const { return group_floats() * (unit_tokens / group_tokens); }
  std::size_t unit_floats() const;
};

/// Whether decode of this model keeps keys and values: where those of a token, in all layers, take at most
/// `most_kept_bytes`, so that thousands of tokens stay in a processor's caches. Models for real work are far above.
bool keeps_keys(const ModelConfig& config);
constexpr std::size_t most_kept_bytes = 8192;

/// Writes a token's keys and values into its unit.
/// @param keys_values [heads, nope + v]; @param rotated [rope], the part of the key that all heads share
void keep_token(const KeptLayout& layout, float* unit, int token_of_unit, const float* keys_values,
                const float* rotated);

/// What queries of one sequence attend to: n_keys tokens of a layer, unit after unit `stride` floats apart. Tokens
/// count from the first unit's.
struct KeptProduct {
  KeptLayout layout;
  const float* units = nullptr;
  std::ptrdiff_t stride = 0;
  int n_keys = 0;
  int rows = 0;  ///< queries, 1 or 2

  /// body(unit, first token, tokens) for all units.
  template <class Body>
  void by_units(Body&& body) const {
    const float* unit = units;
    for (int first = 0; first < n_keys; first += KeptLayout::unit_tokens, unit += stride)
      body(unit, first, n_keys - first < KeptLayout::unit_tokens ? n_keys - first : KeptLayout::unit_tokens);
  }
  /// Floating-point operations of the products with keys and values.
  double operations() const { return 2.0 * rows * layout.heads * n_keys * (layout.qk() + layout.v); }
  std::size_t scratch_floats() const {
    return static_cast<std::size_t>(rows * layout.heads) * (KeptLayout::unit_tokens + 2);
  }
};

/// Attention of the last `rows` of n_keys tokens; a query sees the tokens up to its own.
///
///     out[row, head, :] = sum_key w_key value_key,head / sum_key w_key
///     w_key = exp((q_row,head . key_head - m) scale)
///
/// m is the largest product so far: units are taken one after the other, and when a larger one comes, what has been
/// summed is scaled (Milakov and Gimelshein 2018).
/// @param queries [rows, heads, nope + rope]; @param out [rows, heads, v]; @param scratch [scratch_floats()]
void attend_kept(const KeptProduct& product, float scale, const float* queries, float* scratch, float* out);

}  // namespace supernode::moe
