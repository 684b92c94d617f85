#include "moe/sequence_state.hpp"

#include <algorithm>

#include "moe/model_config.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {

int SequenceState::length() const noexcept {
  return has_draft() ? std::min(main.length(), draft.length()) : main.length();
}

void SequenceState::reserve(int tokens) {
  main.reserve(tokens);
  if (has_draft()) draft.reserve(tokens);
}

void SequenceState::truncate(int tokens) {
  main.truncate(tokens);
  if (draft.length() > tokens) draft.truncate(tokens);
}

void SequenceState::export_tokens(int first, int count, std::span<std::byte> out) const {
  expect(first >= 0 && count >= 0 && first + count <= length(), "SequenceState::export_tokens outside the state");
  expect(out.size() == bytes(count), "SequenceState::export_tokens: size of out");
  if (!has_draft()) return main.export_tokens(first, count, out);
  for (int token = first; token < first + count; ++token, out = out.subspan(bytes_per_token())) {
    main.export_tokens(token, 1, out.first(main.bytes_per_token()));
    draft.export_tokens(token, 1, out.subspan(main.bytes_per_token(), draft.bytes_per_token()));
  }
}

void SequenceState::import_tokens(int first, int count, std::span<const std::byte> from) {
  expect(first >= 0 && count >= 0 && first <= length(), "SequenceState::import_tokens leaves a hole");
  expect(from.size() == bytes(count), "SequenceState::import_tokens: size of bytes");
  if (!has_draft()) return main.import_tokens(first, count, from);
  main.reserve(std::max(main.length(), first + count));
  draft.reserve(std::max(draft.length(), first + count));
  for (int token = first; token < first + count; ++token, from = from.subspan(bytes_per_token())) {
    main.import_tokens(token, 1, from.first(main.bytes_per_token()));
    draft.import_tokens(token, 1, from.subspan(main.bytes_per_token(), draft.bytes_per_token()));
  }
}

std::size_t state_bytes_per_token(const ModelConfig& config, DraftCache draft) {
  const std::size_t module = KvCache(1, config.kv_width()).bytes_per_token();
  return kv_bytes_per_token(config) + (draft == DraftCache::included ? module : 0);
}

}  // namespace supernode::moe
