#pragma once
// The attention state of one sequence.

#include <cstddef>
#include <span>
#include <vector>

#include "runtime/core/buffer.hpp"

namespace supernode::moe {

struct ModelConfig;

/// What MLA keeps of each token: for each layer the normalised latent [kv_lora_rank] and the rotated key part
/// [rope_dim], f32. Token-major: all layers of a token are neighbours, so a range of tokens is one contiguous byte
/// string, the unit that the memory pool stores and that prefill hands to decode. Get one from
/// Transformer::make_cache().
///
/// Beside that, where the model wants it, what decode has expanded from the latents already (products/kept_keys.hpp):
/// made anew from them whenever it is missing, so it is neither exported nor imported.
class KvCache {
 public:
  KvCache() = default;
  /// @param n_layers layers kept per token; @param width values per layer, ModelConfig::kv_width()
  /// @param kept_unit_floats expanded values of kept_unit_tokens tokens in one layer; 0: none are kept
  KvCache(int n_layers, int width, std::size_t kept_unit_floats = 0);

  int length() const noexcept { return length_; }  ///< tokens held
  int n_layers() const noexcept { return n_layers_; }
  int width() const noexcept { return width_; }
  std::size_t bytes_per_token() const noexcept { return token_stride() * sizeof(float); }

  /// Whether both hold the same of a token.
  bool like(const KvCache& other) const noexcept {
    return n_layers_ == other.n_layers_ && width_ == other.width_ && kept_unit_floats_ == other.kept_unit_floats_;
  }

  /// Room for `tokens` in all, so that growing up to there does not allocate.
  void reserve(int tokens);
  /// Drops all but the first `tokens` <= length(). O(1).
  void truncate(int tokens);

  /// Copies tokens [first, first + count) of all layers into `out`, count * bytes_per_token() bytes.
  void export_tokens(int first, int count, std::span<std::byte> out) const;
  /// Sets tokens [first, first + count), first <= length(), from exported bytes; length() grows to cover them.
  void import_tokens(int first, int count, std::span<const std::byte> bytes);

  /// For the transformer: appends `count` tokens whose values are still unset.
  void extend(int count);
  /// Row of `layer` at `token`: [width]; the next token's row lies token_stride() floats further.
  float* row(int layer, int token) noexcept;
  const float* row(int layer, int token) const noexcept;
  std::size_t token_stride() const noexcept {
    return static_cast<std::size_t>(n_layers_) * static_cast<std::size_t>(width_);
  }

  static constexpr int kept_unit_tokens = 64;
  /// For the transformer: tokens of `layer` whose expanded values are there.
  int kept(int layer) const { return kept_[static_cast<std::size_t>(layer)]; }
  /// Makes room for the expanded values of the first `tokens` <= length() of `layer`, which the caller then writes.
  void keep(int layer, int tokens);
  /// Unit 0 of `layer`: of tokens [0, kept_unit_tokens). The next one lies kept_stride() floats further. Values that
  /// nobody has written are zero.
  float* kept_units(int layer) noexcept;
  std::size_t kept_stride() const noexcept { return static_cast<std::size_t>(n_layers_) * kept_unit_floats_; }

 private:
  void forget_kept(int tokens);

  int n_layers_ = 0, width_ = 0, length_ = 0;
  HugePageBuffer<float> values_;
  std::size_t kept_unit_floats_ = 0;
  HugePageBuffer<float> kept_values_;
  std::vector<int> kept_;  ///< by layer
};

/// Bytes that a token takes in the cache of a model, make_cache().bytes_per_token(): what is handed over and stored.
/// (What decode keeps expanded beside it is not in it.)
std::size_t kv_bytes_per_token(const ModelConfig& config);

}  // namespace supernode::moe
