#include "runtime/serving/workers/kv_intake.hpp"

#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {
namespace {

[[noreturn]] void refuse(RequestId request, const std::string& why) {
  throw EnvironmentError(fmt::format("KV of request {}: {}", request, why));
}

/// @param end empty but for the last tokens of a state
void import(EngineState& state, RequestId request, int first, int count, std::span<const std::byte> bytes,
            std::span<const std::byte> end) {
  try {
    state.import_tokens(first, count, bytes);
  } catch (const EnvironmentError& error) {
    refuse(request, error.what());
  }
  if (!end.empty()) state.import_end(end);
}

}  // namespace

void KvIntake::expect_kv(const KvNotice& notice) {
  const auto [entry, fresh] = noticed_.try_emplace(notice.request);
  if (!fresh) refuse(notice.request, "a second notice");
  entry->second.notice = notice;
  // Room for the whole output now, so that no iteration allocates.
  entry->second.state = engine_.make_state(notice.prompt_tokens + notice.max_output);
  if (notice.prefill_rank < 0) {
    entry->second.state->place_tokens(notice.prompt_tokens);
    finish_if_whole(notice.request);
    return;
  }
  if (auto early = early_.extract(notice.request)) {
    for (const auto& [first, held] : early.mapped())
      place(entry->second, held.source,
            {notice.request, first, held.count, held.bytes_per_token, held.bytes, held.end});
    finish_if_whole(notice.request);
  }
}

void KvIntake::take(int source, const KvPiece& piece) {
  if (const auto found = noticed_.find(piece.request); found != noticed_.end()) {
    place(found->second, source, piece);
    finish_if_whole(piece.request);
    return;
  }
  const auto [entry, fresh] = early_[piece.request].try_emplace(piece.first, hold(source, piece));
  if (!fresh) refuse(piece.request, fmt::format("tokens from {} on came twice", piece.first));
}

KvIntake::Held KvIntake::hold(int source, const KvPiece& piece) {
  return {source,
          piece.count,
          piece.bytes_per_token,
          {piece.bytes.begin(), piece.bytes.end()},
          {piece.end.begin(), piece.end.end()}};
}

void KvIntake::place(Noticed& noticed, int source, const KvPiece& piece) {
  const KvNotice& notice = noticed.notice;
  if (source != notice.prefill_rank)
    refuse(piece.request, fmt::format("a piece from rank {}, expected from rank {}", source, notice.prefill_rank));
  if (piece.bytes_per_token != engine_.state_bytes_per_token())
    refuse(piece.request,
           fmt::format("{} bytes a token, {} here", piece.bytes_per_token, engine_.state_bytes_per_token()));
  if (piece.count > notice.prompt_tokens || piece.first > notice.prompt_tokens - piece.count)
    refuse(piece.request,
           fmt::format("{} tokens from {} on, but the prompt has {}", piece.count, piece.first, notice.prompt_tokens));
  const bool last = piece.first + piece.count == notice.prompt_tokens;
  if (const std::size_t end = last ? engine_.state_end_bytes() : 0; piece.end.size() != end)
    refuse(piece.request, fmt::format("{} tokens from {} on with an end of {} bytes, {} here", piece.count, piece.first,
                                      piece.end.size(), end));
  EngineState& state = *noticed.state;
  if (piece.first < state.length() || noticed.waiting.contains(piece.first))
    refuse(piece.request, fmt::format("tokens from {} on came twice", piece.first));
  if (piece.first > state.length()) {
    noticed.waiting[piece.first] = hold(source, piece);
    return;
  }
  import(state, piece.request, piece.first, piece.count, piece.bytes, piece.end);
  while (!noticed.waiting.empty() && noticed.waiting.begin()->first <= state.length()) {
    const auto next = noticed.waiting.extract(noticed.waiting.begin());
    if (next.key() < state.length()) refuse(piece.request, fmt::format("tokens from {} on came twice", next.key()));
    import(state, piece.request, next.key(), next.mapped().count, next.mapped().bytes, next.mapped().end);
  }
}

void KvIntake::finish_if_whole(RequestId request) {
  const auto found = noticed_.find(request);
  if (found->second.state->length() < found->second.notice.prompt_tokens) return;
  complete_.push_back({found->second.notice, std::move(found->second.state)});
  noticed_.erase(found);
}

std::vector<KvIntake::Complete> KvIntake::take_complete() { return std::exchange(complete_, {}); }

}  // namespace supernode::serving
