#include "moe/sequence_state.hpp"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "moe/model_config.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {

bool SequenceState::complete() const noexcept {
  if (!has_draft()) return false;
  const std::size_t missing = static_cast<std::size_t>(std::max(0, main.length() - draft.length()));
  return unseen.hidden.size() == missing * static_cast<std::size_t>(hidden_size);
}

int SequenceState::length() const noexcept {
  return has_draft() ? std::min(main.length(), draft.length() + 1) : main.length();
}

void SequenceState::reserve(int tokens) {
  main.reserve(tokens);
  if (has_draft()) draft.reserve(tokens);
}

void SequenceState::truncate(int tokens) {
  main.truncate(tokens);
  if (draft.length() > tokens) draft.truncate(tokens);
  unseen = {};
}

void SequenceState::note_unseen(std::span<const std::int32_t> tokens, std::span<const float> hidden) {
  expect(hidden.size() == tokens.size() * static_cast<std::size_t>(hidden_size),
         "SequenceState::note_unseen: hidden is not [tokens, hidden_size]");
  // A token follows the position before it, which the module may have seen with this token already.
  const std::span<const std::int32_t> follow = unseen.empty() && !tokens.empty() ? tokens.subspan(1) : tokens;
  unseen.follows.insert(unseen.follows.end(), follow.begin(), follow.end());
  unseen.hidden.insert(unseen.hidden.end(), hidden.begin(), hidden.end());
}

void SequenceState::export_tokens(int first, int count, std::span<std::byte> out) const {
  expect(first >= 0 && count >= 0 && first + count <= length(), "SequenceState::export_tokens outside the state");
  expect(out.size() == bytes(count), "SequenceState::export_tokens: size of out");
  if (!has_draft()) return main.export_tokens(first, count, out);
  for (int token = first; token < first + count; ++token, out = out.subspan(bytes_per_token())) {
    main.export_tokens(token, 1, out.first(main.bytes_per_token()));
    const auto before = out.subspan(main.bytes_per_token(), draft.bytes_per_token());
    if (token > 0)
      draft.export_tokens(token - 1, 1, before);
    else
      std::ranges::fill(before, std::byte{0});
  }
}

void SequenceState::import_tokens(int first, int count, std::span<const std::byte> from) {
  expect(first >= 0 && count >= 0 && first <= main.length(), "SequenceState::import_tokens leaves a hole");
  expect(from.size() == bytes(count), "SequenceState::import_tokens: size of bytes");
  if (!has_draft()) return main.import_tokens(first, count, from);
  unseen = {};
  main.reserve(std::max(main.length(), first + count));
  draft.reserve(std::max(draft.length(), first + count));
  for (int token = first; token < first + count; ++token, from = from.subspan(bytes_per_token())) {
    main.import_tokens(token, 1, from.first(main.bytes_per_token()));
    if (token > 0) draft.import_tokens(token - 1, 1, from.subspan(main.bytes_per_token(), draft.bytes_per_token()));
  }
}

void SequenceState::export_end(std::span<std::byte> out) const {
  expect(out.size() == end_bytes(), "SequenceState::export_end: size of out");
  if (out.empty()) return;
  expect(!unseen.empty(), "SequenceState::export_end: the module has seen the last position");
  std::memcpy(out.data(), unseen.hidden.data() + unseen.hidden.size() - static_cast<std::size_t>(hidden_size),
              out.size());
}

void SequenceState::import_end(std::span<const std::byte> bytes) {
  expect(bytes.size() == end_bytes(), "SequenceState::import_end: size of bytes");
  if (bytes.empty()) return;
  expect(draft.length() + 1 == main.length(), "SequenceState::import_end: not behind imported tokens");
  unseen.follows.clear();
  unseen.hidden.resize(static_cast<std::size_t>(hidden_size));
  std::memcpy(unseen.hidden.data(), bytes.data(), bytes.size());
}

std::size_t state_bytes_per_token(const ModelConfig& config, DraftCache draft) {
  const std::size_t module = KvCache(1, config.kv_width()).bytes_per_token();
  return kv_bytes_per_token(config) + (draft == DraftCache::included ? module : 0);
}

std::size_t state_end_bytes(const ModelConfig& config, DraftCache draft) {
  return draft == DraftCache::included ? static_cast<std::size_t>(config.hidden_size) * sizeof(float) : 0;
}

std::string state_format(const ModelConfig& config, DraftCache draft) {
  const std::string kept = fmt::format("f32[{}x{}]", config.n_layers, config.kv_width());
  return draft == DraftCache::none ? kept
                                   : fmt::format("{}+draft[1x{}]+end[{}]", kept, config.kv_width(), config.hidden_size);
}

}  // namespace supernode::moe
