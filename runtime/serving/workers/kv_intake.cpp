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

void KvIntake::reserve(const KvNotice& notice) {
  const auto [entry, fresh] = noticed_.try_emplace(notice.request);
  if (!fresh) refuse(notice.request, "a second notice");
  entry->second.notice = notice;
  // Room for the whole output now, so that no iteration allocates.
  entry->second.state = engine_.make_state(notice.prompt_tokens + notice.max_output);
  if (auto early = early_.extract(notice.request))
    for (const auto& [first, held] : early.mapped())
      place(entry->second, held.source,
            {notice.request, first, held.count, held.bytes_per_token, held.bytes, held.end});
}

void KvIntake::expect(const KvDue& due) {
  const auto found = noticed_.find(due.request);
  if (found == noticed_.end()) refuse(due.request, "expected without a notice of it");
  Noticed& noticed = found->second;
  if (noticed.due) refuse(due.request, "expected twice");
  if (due.tokens > noticed.notice.prompt_tokens || due.tokens < noticed.come)
    refuse(due.request, fmt::format("{} tokens are to come, {} have, and the prompt has {}", due.tokens, noticed.come,
                                    noticed.notice.prompt_tokens));
  noticed.due = due;
  if (noticed.notice.prefill_rank < 0) {
    noticed.state->place_tokens(due.tokens);
    noticed.come = due.tokens;
  }
  finish_if_whole(due.request);
}

void KvIntake::drop(RequestId request, Remainder kv) {
  if (kv == Remainder::lost) {
    noticed_.erase(request);
    early_.erase(request);
    lost_.insert(request);
    return;
  }
  const auto found = noticed_.find(request);
  if (found == noticed_.end()) refuse(request, "dropped, but not here");
  Noticed& noticed = found->second;
  if (noticed.due) {
    noticed.state.reset();
    noticed.waiting.clear();
    return;
  }
  if (noticed.come > 0) refuse(request, "dropped while more of it may be on its way");
  noticed_.erase(found);
}

void KvIntake::take(int source, const KvPiece& piece) {
  if (lost_.contains(piece.request)) return;
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
  if (source < notice.prefill_rank || source >= notice.prefill_rank + notice.prefill_ranks)
    refuse(piece.request,
           fmt::format(
               "a piece from rank {}, expected from rank {}{}", source, notice.prefill_rank,
               notice.prefill_ranks > 1 ? fmt::format(" to {}", notice.prefill_rank + notice.prefill_ranks - 1) : ""));
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
  noticed.come += piece.count;
  if (!noticed.state) return;  // nobody wants it any more
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
  Noticed& noticed = found->second;
  if (!noticed.due || noticed.come < noticed.due->tokens) return;
  complete_.push_back({noticed.notice, noticed.due->first_token, std::move(noticed.state)});
  noticed_.erase(found);
}

std::vector<KvIntake::Complete> KvIntake::take_complete() { return std::exchange(complete_, {}); }

}  // namespace supernode::serving
