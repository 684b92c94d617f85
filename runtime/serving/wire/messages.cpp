#include "runtime/serving/wire/messages.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/byte_stream.hpp"

namespace supernode::serving {
namespace {

constexpr std::size_t kv_head_bytes = 8 + 4 + 4 + 8 + 8;

void put_envelope(ByteWriter& to, MessageKind kind, std::size_t body_bytes, RunTime stamp) {
  expect(body_bytes <= std::numeric_limits<std::uint32_t>::max(), "the body of a serving message is too large");
  to.put(kind).put(wire_version).put(static_cast<std::uint32_t>(body_bytes)).put(stamp.time_since_epoch().count());
}

std::vector<std::byte> with_envelope(MessageKind kind, ByteWriter body, RunTime stamp) {
  const std::vector<std::byte> bytes = body.take();
  ByteWriter message;
  message.reserve(envelope_bytes + bytes.size());
  put_envelope(message, kind, bytes.size(), stamp);
  return message.put_raw(bytes).take();
}

struct Envelope {
  MessageKind kind{};
  RunTime stamp{};
};

/// Takes the envelope off; the body is then all that is left.
Envelope get_envelope(ByteReader& from) {
  Envelope envelope;
  envelope.kind = from.get<MessageKind>();
  const auto version = from.get<std::uint16_t>();
  if (version != wire_version)
    throw EnvironmentError(fmt::format(
        "message of version {}, this program has {}: all ranks must run the same program", version, wire_version));
  const auto body_bytes = from.get<std::uint32_t>();
  envelope.stamp = RunTime(RunSpan(from.get<std::int64_t>()));
  if (from.left() < body_bytes) throw EnvironmentError("message too short");
  if (from.left() > body_bytes)
    throw EnvironmentError(fmt::format("message too long by {} bytes", from.left() - body_bytes));
  return envelope;
}

[[noreturn]] void refuse(MessageKind kind, const char* wanted) {
  throw EnvironmentError(fmt::format("message '{}' is no {}", name_of(kind), wanted));
}

void put(ByteWriter& to, const moe::SamplerOptions& sampler) {
  to.put(sampler.temperature).put(sampler.top_p).put(sampler.seed);
}

moe::SamplerOptions get_sampler(ByteReader& from) {
  moe::SamplerOptions sampler;
  sampler.temperature = from.get<double>();
  sampler.top_p = from.get<double>();
  sampler.seed = from.get<std::uint64_t>();
  return sampler;
}

void put(ByteWriter& to, SampledToken token) {
  to.put(static_cast<std::uint8_t>(token.has_value())).put(token.value_or(0));
}

SampledToken get_token(ByteReader& from) {
  const bool there = from.get<std::uint8_t>() != 0;
  const auto token = from.get<std::int32_t>();
  return there ? SampledToken(token) : std::nullopt;
}

/// In the order of a message.
template <class Figures>
auto ways_of(Figures& payload) {
  return std::array{&payload.exchange, &payload.handover, &payload.pool_load, &payload.pool_store};
}

void put(ByteWriter& to, RunSpan span) { to.put(span.count()); }
RunSpan get_span(ByteReader& from) { return RunSpan(from.get<RunSpan::rep>()); }

// ---- orders ----

void put(ByteWriter& to, const StepOrder::Item::Beginning& begins) {
  to.put(begins.max_output).put(begins.decode_rank);
  put(to, begins.sampler);
  to.put_all(std::span<const std::int32_t>(begins.prompt));
  to.put(begins.granted_tokens).put<std::uint64_t>(begins.loads.size());
  for (const emulation::PoolLoad& load : begins.loads) to.put<std::int32_t>(load.owner).put(load.bytes);
}

void put_body(ByteWriter& to, const StepOrder& order) {
  to.put<std::uint64_t>(order.items.size());
  for (const StepOrder::Item& item : order.items) {
    to.put(item.request).put(item.first).put(item.count);
    to.put(static_cast<std::uint8_t>(item.begins.has_value()));
    if (item.begins) put(to, *item.begins);
  }
}

void put_body(ByteWriter& to, const KvNotice& notice) {
  to.put(notice.request).put(notice.prefill_rank).put(notice.prompt_tokens).put(notice.max_output);
  put(to, notice.sampler);
}

void put_body(ByteWriter& to, const KvDue& due) { to.put(due.request).put(due.tokens).put(due.first_token); }
void put_body(ByteWriter& to, const DropOrder& order) { to.put_all(std::span<const RequestId>(order.requests)); }
void put_body(ByteWriter&, const KeepAlive&) {}
void put_body(ByteWriter& to, const StopOrder& order) { to.put(order.unfinished); }

/// Rooms and loops are sized by these.
void check_lengths(RequestId request, std::int64_t prompt_tokens, std::int32_t max_output) {
  if (prompt_tokens < 1 || max_output < 1)
    throw EnvironmentError(
        fmt::format("request {} of {} prompt and {} output tokens", request, prompt_tokens, max_output));
}

StepOrder::Item::Beginning get_beginning(RequestId request, ByteReader& from) {
  StepOrder::Item::Beginning begins;
  begins.max_output = from.get<std::int32_t>();
  begins.decode_rank = from.get<std::int32_t>();
  begins.sampler = get_sampler(from);
  begins.prompt = from.get_all<std::int32_t>();
  check_lengths(request, static_cast<std::int64_t>(begins.prompt.size()), begins.max_output);
  begins.granted_tokens = from.get<std::int32_t>();
  if (begins.granted_tokens < -1 || begins.granted_tokens >= static_cast<std::int64_t>(begins.prompt.size()))
    throw EnvironmentError(fmt::format("request {} is granted {} of {} prompt tokens", request, begins.granted_tokens,
                                       begins.prompt.size()));
  begins.loads.resize(from.get_count(sizeof(std::int32_t) + sizeof(double)));
  for (emulation::PoolLoad& load : begins.loads) {
    load.owner = from.get<std::int32_t>();
    load.bytes = from.get<double>();
  }
  return begins;
}

StepOrder get_step(ByteReader& from) {
  StepOrder order;
  order.items.resize(from.get_count(sizeof(RequestId)));
  for (StepOrder::Item& item : order.items) {
    item.request = from.get<RequestId>();
    item.first = from.get<std::int32_t>();
    item.count = from.get<std::int32_t>();
    if (item.first < 0 || item.count < 1)
      throw EnvironmentError(
          fmt::format("a step of {} tokens behind {} of request {}", item.count, item.first, item.request));
    if (from.get<std::uint8_t>() != 0) item.begins = get_beginning(item.request, from);
  }
  return order;
}

KvNotice get_notice(ByteReader& from) {
  KvNotice notice;
  notice.request = from.get<RequestId>();
  notice.prefill_rank = from.get<std::int32_t>();
  notice.prompt_tokens = from.get<std::int32_t>();
  notice.max_output = from.get<std::int32_t>();
  notice.sampler = get_sampler(from);
  check_lengths(notice.request, notice.prompt_tokens, notice.max_output);
  return notice;
}

KvDue get_due(ByteReader& from) {
  KvDue due;
  due.request = from.get<RequestId>();
  due.tokens = from.get<std::int32_t>();
  due.first_token = from.get<std::int32_t>();
  if (due.tokens < 1) throw EnvironmentError(fmt::format("{} tokens of KV of request {}", due.tokens, due.request));
  return due;
}

Order get_order(MessageKind kind, ByteReader& from) {
  switch (kind) {
    case MessageKind::step:
      return get_step(from);
    case MessageKind::reserve_kv:
      return get_notice(from);
    case MessageKind::expect_kv:
      return get_due(from);
    case MessageKind::drop_state:
      return DropOrder{from.get_all<RequestId>()};
    case MessageKind::keep_alive:
      return KeepAlive{};
    case MessageKind::stop:
      return StopOrder{from.get<Unfinished>()};
    default:
      refuse(kind, "order");
  }
}

// ---- reports ----

using CountsByReason = std::map<std::string, std::uint64_t>;

void put_counts(ByteWriter& to, const CountsByReason& counts) {
  to.put<std::uint64_t>(counts.size());
  for (const auto& [reason, count] : counts) to.put_text(reason).put(count);
}

CountsByReason get_counts(ByteReader& from) {
  CountsByReason counts;
  for (std::size_t left = from.get_count(sizeof(std::uint64_t)); left > 0; --left) {
    std::string reason = from.get_text();
    counts[std::move(reason)] = from.get<std::uint64_t>();
  }
  return counts;
}

void put_body(ByteWriter& to, const PrefillReport& report) {
  to.put<std::uint64_t>(report.results.size());
  for (const PrefillResult& result : report.results) {
    to.put(result.request);
    put(to, result.first_token);
    to.put<std::int32_t>(result.hit_tokens).put<std::int32_t>(result.computed_tokens);
    put(to, result.pool);
    put(to, result.exchange);
  }
  put_counts(to, report.misses);
}

void put_body(ByteWriter& to, const KvReport& report) { to.put(report.request); }

void put_body(ByteWriter& to, const DecodeReport& report) {
  put(to, report.exchange);
  to.put<std::uint64_t>(report.tokens.size());
  for (const DecodeReported::Token& token : report.tokens) {
    to.put(token.request);
    put(to, token.token);
    to.put_all(std::span<const std::int32_t>(token.further));
  }
}

void put_body(ByteWriter& to, const StoppedReport& report) {
  const WorkerStatistics& s = report.statistics;
  to.put(s.lookups).put(s.hits).put(s.stored_blocks).put(s.known_blocks).put(s.dropped_blocks);
  put_counts(to, s.miss_reasons);
  put_counts(to, s.drop_reasons);
  to.put(s.guesses.drafted).put(s.guesses.accepted);
  to.put<std::uint64_t>(s.modelled_s.size());
  for (const auto& [part, seconds] : s.modelled_s) to.put_text(part).put(seconds);
  for (const Transfers* one : ways_of(s.payload)) to.put(one->bytes).put(one->wall_s).put(one->modelled_s);
  to.put<std::uint64_t>(s.step_times.size());
  for (const auto& [rank, times] : s.step_times)
    to.put<std::int32_t>(rank).put(times.steps).put(times.median_s).put(times.median_per_token_s);
}

PrefillReport get_prefill_report(ByteReader& from) {
  PrefillReport report;
  report.results.resize(from.get_count(sizeof(RequestId)));
  for (PrefillResult& result : report.results) {
    result.request = from.get<RequestId>();
    result.first_token = get_token(from);
    result.hit_tokens = from.get<std::int32_t>();
    result.computed_tokens = from.get<std::int32_t>();
    result.pool = get_span(from);
    result.exchange = get_span(from);
  }
  report.misses = get_counts(from);
  return report;
}

DecodeReport get_decode_report(ByteReader& from) {
  DecodeReport report;
  report.exchange = get_span(from);
  report.tokens.resize(from.get_count(sizeof(RequestId)));
  for (DecodeReported::Token& token : report.tokens) {
    token.request = from.get<RequestId>();
    token.token = get_token(from);
    token.further = from.get_all<std::int32_t>();
  }
  return report;
}

StoppedReport get_stopped_report(ByteReader& from) {
  StoppedReport report;
  WorkerStatistics& s = report.statistics;
  s.lookups = from.get<std::uint64_t>();
  s.hits = from.get<std::uint64_t>();
  s.stored_blocks = from.get<std::uint64_t>();
  s.known_blocks = from.get<std::uint64_t>();
  s.dropped_blocks = from.get<std::uint64_t>();
  s.miss_reasons = get_counts(from);
  s.drop_reasons = get_counts(from);
  s.guesses.drafted = from.get<std::uint64_t>();
  s.guesses.accepted = from.get<std::uint64_t>();
  for (std::size_t left = from.get_count(sizeof(double)); left > 0; --left) {
    std::string part = from.get_text();
    s.modelled_s[std::move(part)] = from.get<double>();
  }
  for (Transfers* one : ways_of(s.payload)) {
    one->bytes = from.get<std::uint64_t>();
    one->wall_s = from.get<double>();
    one->modelled_s = from.get<double>();
  }
  for (std::size_t left = from.get_count(sizeof(std::int32_t) + sizeof(StepTimes)); left > 0; --left) {
    StepTimes& times = s.step_times[from.get<std::int32_t>()];
    times.steps = from.get<std::uint64_t>();
    times.median_s = from.get<double>();
    times.median_per_token_s = from.get<double>();
  }
  return report;
}

Report get_report(MessageKind kind, ByteReader& from) {
  switch (kind) {
    case MessageKind::prefill_reported:
      return get_prefill_report(from);
    case MessageKind::kv_arrived:
      return KvReport{from.get<RequestId>()};
    case MessageKind::decode_reported:
      return get_decode_report(from);
    case MessageKind::stopped:
      return get_stopped_report(from);
    default:
      refuse(kind, "report");
  }
}

template <class Variant>
std::vector<std::byte> encode_any(const Variant& what, RunTime stamp) {
  ByteWriter body;
  std::visit([&](const auto& one) { put_body(body, one); }, what);
  return with_envelope(kind_of(what), std::move(body), stamp);
}

}  // namespace

std::string_view name_of(MessageKind kind) {
  switch (kind) {
    case MessageKind::step:
      return "step";
    case MessageKind::reserve_kv:
      return "reserve_kv";
    case MessageKind::expect_kv:
      return "expect_kv";
    case MessageKind::drop_state:
      return "drop_state";
    case MessageKind::keep_alive:
      return "keep_alive";
    case MessageKind::stop:
      return "stop";
    case MessageKind::prefill_reported:
      return "prefill_reported";
    case MessageKind::kv_arrived:
      return "kv_arrived";
    case MessageKind::decode_reported:
      return "decode_reported";
    case MessageKind::stopped:
      return "stopped";
    case MessageKind::kv_piece:
      return "kv_piece";
    case MessageKind::step_piece:
      return "step_piece";
  }
  return "unknown";
}

MessageKind kind_of(const Order& order) {
  constexpr MessageKind kinds[] = {MessageKind::step,       MessageKind::reserve_kv, MessageKind::expect_kv,
                                   MessageKind::drop_state, MessageKind::keep_alive, MessageKind::stop};
  static_assert(std::size(kinds) == std::variant_size_v<Order>);
  return kinds[order.index()];
}

MessageKind kind_of(const Report& report) {
  constexpr MessageKind kinds[] = {MessageKind::prefill_reported, MessageKind::kv_arrived, MessageKind::decode_reported,
                                   MessageKind::stopped};
  static_assert(std::size(kinds) == std::variant_size_v<Report>);
  return kinds[report.index()];
}

std::vector<std::byte> encode(const Order& order, RunTime stamp) { return encode_any(order, stamp); }
std::vector<std::byte> encode(const Report& report, RunTime stamp) { return encode_any(report, stamp); }

Stamped<Order> decode_order(std::span<const std::byte> message) {
  ByteReader reader(message);
  const Envelope envelope = get_envelope(reader);
  Stamped<Order> order{envelope.stamp, get_order(envelope.kind, reader)};
  reader.finish();
  return order;
}

Stamped<Report> decode_report(std::span<const std::byte> message) {
  ByteReader reader(message);
  const Envelope envelope = get_envelope(reader);
  Stamped<Report> report{envelope.stamp, get_report(envelope.kind, reader)};
  reader.finish();
  return report;
}

std::vector<std::byte> make_kv_piece(RequestId request, int first, int count, std::size_t bytes_per_token,
                                     RunTime stamp, std::span<std::byte>& payload, std::size_t end_bytes) {
  const std::size_t payload_bytes = static_cast<std::size_t>(count) * bytes_per_token + end_bytes;
  ByteWriter writer;
  writer.reserve(envelope_bytes + kv_head_bytes + payload_bytes);
  put_envelope(writer, MessageKind::kv_piece, kv_head_bytes + payload_bytes, stamp);
  writer.put(request).put<std::int32_t>(first).put<std::int32_t>(count).put<std::uint64_t>(bytes_per_token);
  writer.put<std::uint64_t>(end_bytes);
  std::vector<std::byte> message = writer.take();
  message.resize(message.size() + payload_bytes);
  payload = std::span(message).last(payload_bytes);
  return message;
}

Stamped<KvPiece> decode_kv_piece(std::span<const std::byte> message) {
  ByteReader reader(message);
  const Envelope envelope = get_envelope(reader);
  if (envelope.kind != MessageKind::kv_piece) refuse(envelope.kind, "piece of KV");
  KvPiece piece;
  piece.request = reader.get<RequestId>();
  piece.first = reader.get<std::int32_t>();
  piece.count = reader.get<std::int32_t>();
  piece.bytes_per_token = reader.get<std::uint64_t>();
  const auto end_bytes = reader.get<std::uint64_t>();
  piece.bytes = reader.get_raw(reader.left());
  const bool has_end = end_bytes <= piece.bytes.size();
  if (has_end) {
    piece.end = piece.bytes.last(end_bytes);
    piece.bytes = piece.bytes.first(piece.bytes.size() - end_bytes);
  }
  const bool fits = has_end && (piece.bytes_per_token == 0 ? piece.bytes.empty()
                                                           : piece.bytes.size() % piece.bytes_per_token == 0 &&
                                                                 piece.bytes.size() / piece.bytes_per_token ==
                                                                     static_cast<std::size_t>(piece.count));
  if (piece.first < 0 || piece.count < 1 || !fits)
    throw EnvironmentError(fmt::format("piece of KV with {} bytes for {} tokens from {} on of {} bytes each",
                                       piece.bytes.size(), piece.count, piece.first, piece.bytes_per_token));
  return {envelope.stamp, piece};
}

std::vector<std::vector<std::byte>> make_step_pieces(std::span<const std::byte> report, RunTime stamp,
                                                     std::size_t most) {
  std::vector<std::vector<std::byte>> messages;
  do {
    const auto bytes = report.first(std::min(most, report.size()));
    report = report.subspan(bytes.size());
    ByteWriter message;
    message.reserve(envelope_bytes + sizeof(std::uint64_t) + bytes.size());
    put_envelope(message, MessageKind::step_piece, sizeof(std::uint64_t) + bytes.size(), stamp);
    messages.push_back(message.put<std::uint64_t>(report.size()).put_raw(bytes).take());
  } while (!report.empty());
  return messages;
}

bool is_step_piece(std::span<const std::byte> message) {
  return message.size() >= sizeof(MessageKind) && ByteReader(message).get<MessageKind>() == MessageKind::step_piece;
}

Stamped<StepPiece> decode_step_piece(std::span<const std::byte> message) {
  ByteReader reader(message);
  const Envelope envelope = get_envelope(reader);
  if (envelope.kind != MessageKind::step_piece) refuse(envelope.kind, "part of a step's report");
  StepPiece piece;
  piece.left = reader.get<std::uint64_t>();
  piece.bytes = reader.get_raw(reader.left());
  return {envelope.stamp, piece};
}

}  // namespace supernode::serving
