#pragma once
// All that is kept of a sequence between its steps, as one thing that can be handed over and stored.

#include <cstddef>
#include <span>

#include "moe/kv_cache.hpp"

namespace supernode::moe {

/// The model's cache and, with an MTP module, the module's. Get one from Transformer::make_state(). Move-only.
///
/// As bytes a token is its row of `main` followed by its row of `draft`, token after token: the bytes of neighbouring
/// ranges, one after the other, are those of both together, so what was exported in pieces of one size may be imported
/// in pieces of another.
///
/// The module's row of position t is made from the token at t + 1. Where a prefix goes on with another token than the
/// one it was made with, its last row is stale: a guess made from it may be kept less often, and changes no token.
struct SequenceState {
  KvCache main;
  KvCache draft;  ///< no layers: the model runs without an MTP module

  bool has_draft() const noexcept { return draft.n_layers() > 0; }
  /// Tokens that all parts hold; those of `main` alone are main.length().
  int length() const noexcept;
  std::size_t bytes_per_token() const noexcept { return main.bytes_per_token() + draft.bytes_per_token(); }
  /// Of a range of `tokens` tokens; may go beyond 2^31, so messages are sent in pieces.
  std::size_t bytes(int tokens) const noexcept { return static_cast<std::size_t>(tokens) * bytes_per_token(); }

  /// Room for `tokens` in all, so that growing up to there does not allocate.
  void reserve(int tokens);
  /// Drops all but the first `tokens` <= main.length().
  void truncate(int tokens);

  /// Copies tokens [first, first + count), which length() covers, into `out`, bytes(count) long.
  void export_tokens(int first, int count, std::span<std::byte> out) const;
  /// Sets tokens [first, first + count), first <= length(), from exported bytes; the caches grow to cover them.
  void import_tokens(int first, int count, std::span<const std::byte> bytes);
};

/// bytes_per_token() of a state of this model, with or without the MTP module's cache.
enum class DraftCache { none, included };
std::size_t state_bytes_per_token(const ModelConfig& config, DraftCache draft);

}  // namespace supernode::moe
