#pragma once
// All that is kept of a sequence between its steps, as one thing that can be handed over and stored.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "moe/kv_cache.hpp"

namespace supernode::moe {

/// Positions of a sequence that the model has computed and its MTP module has not seen: what the module's rows of them
/// are made from.
struct UnseenPositions {
  std::vector<float> hidden;          ///< [positions, hidden_size] after the final norm
  std::vector<std::int32_t> follows;  ///< the token behind each; that behind the last is not known yet

  bool empty() const { return hidden.empty(); }
};

/// The model's cache and, with an MTP module, the module's and what it has not seen. Get one from
/// Transformer::make_state(). Move-only.
///
/// As bytes a token is its row of `main` followed by the module's row of the position *before* it (zeros at position
/// 0), token after token. The module's row of position t is made from the token at t + 1, so the bytes of the first n
/// tokens are a function of these n tokens: a prefix may go on with any token. The bytes of neighbouring ranges, one
/// after the other, are those of both together: what was exported in pieces of one size may be imported in pieces of
/// another. With a module, going on behind n tokens takes the last one's hidden row, too: the *end*, end_bytes().
struct SequenceState {
  KvCache main;
  KvCache draft;           ///< no layers: the model runs without an MTP module
  int hidden_size = 0;     ///< 0 without a module
  UnseenPositions unseen;  ///< those of [draft.length(), main.length()), or none: then the module cannot go on

  bool has_draft() const noexcept { return draft.n_layers() > 0; }
  /// Whether the module can go on behind the last token: it has seen all positions, or `unseen` has the others.
  bool complete() const noexcept;
  /// Tokens that can be exported; those of `main` alone are main.length().
  int length() const noexcept;
  std::size_t bytes_per_token() const noexcept { return main.bytes_per_token() + draft.bytes_per_token(); }
  /// Of a range of `tokens` tokens; may go beyond 2^31, so messages are sent in pieces.
  std::size_t bytes(int tokens) const noexcept { return static_cast<std::size_t>(tokens) * bytes_per_token(); }
  /// Of the end; 0 without a module.
  std::size_t end_bytes() const noexcept { return static_cast<std::size_t>(hidden_size) * sizeof(float); }

  /// Room for `tokens` in all, so that growing up to there does not allocate.
  void reserve(int tokens);
  /// Drops all but the first `tokens` <= main.length(). The module can go on only if it has seen those.
  void truncate(int tokens);

  /// Notes tokens that `main` has got and the module has not seen. @param hidden [tokens, hidden_size]
  /// @pre complete() before they came
  void note_unseen(std::span<const std::int32_t> tokens, std::span<const float> hidden);

  /// Copies tokens [first, first + count), which length() covers, into `out`, bytes(count) long.
  void export_tokens(int first, int count, std::span<std::byte> out) const;
  /// Sets tokens [first, first + count), first <= main.length(), from exported bytes; the caches grow to cover them.
  void import_tokens(int first, int count, std::span<const std::byte> bytes);
  /// The end behind all tokens of `main`, end_bytes() long. @pre `unseen` has the last position
  void export_end(std::span<std::byte> out) const;
  /// Behind the last token that was imported.
  void import_end(std::span<const std::byte> bytes);
};

/// Of a state of a model with or without the MTP module: bytes_per_token() and end_bytes().
enum class DraftCache { none, included };
std::size_t state_bytes_per_token(const ModelConfig& config, DraftCache draft);
std::size_t state_end_bytes(const ModelConfig& config, DraftCache draft);
/// Names the layout of exported bytes: two states whose formats are equal can take each other's.
std::string state_format(const ModelConfig& config, DraftCache draft);

}  // namespace supernode::moe
