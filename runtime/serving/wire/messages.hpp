#pragma once
// The messages of a serving run, as bytes: the coordinator's orders, the workers' reports, pieces of KV. All packing
// and unpacking of serving stands here. Pure.
//
//   bytes 0-1  kind                 bytes 4-7   bytes of the body
//   bytes 2-3  version (2)          bytes 8-15  stamp: ns on the run's clock
//   then the body

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

/// Also the MPI tag, for those who look at traffic; what counts is the envelope.
enum class MessageKind : std::uint16_t {
  // coordinator -> worker
  step = 1,
  reserve_kv,
  expect_kv,
  drop_state,
  keep_alive,
  stop,
  // worker -> coordinator
  prefill_reported,
  kv_arrived,
  decode_reported,
  stopped,
  // prefill die -> decode die
  kv_piece,
  // first die of an instance -> coordinator, where someone wants to know of steps
  step_piece,
};

std::string_view name_of(MessageKind kind);

inline constexpr std::uint16_t wire_version = 3;
inline constexpr std::size_t envelope_bytes = 16;

// ---- orders ----

/// A step of an instance: what this die does in it.
struct StepOrder {
  struct Item {
    RequestId request = 0;
    std::int32_t first = 0, count = 0;  ///< as in Work

    /// With the first piece of a prompt.
    struct Beginning {
      std::int32_t max_output = 0;
      std::int32_t decode_rank = 0;  ///< where the KV goes; unused for one output token
      moe::SamplerOptions sampler;
      std::vector<std::int32_t> prompt;
      std::int32_t granted_tokens = -1;  ///< as in Work
      std::vector<emulation::PoolLoad> loads = {};
    };
    std::optional<Beginning> begins = {};
  };
  std::vector<Item> items;
};

/// Tells a decode die to make room for a request, whose KV will come in pieces.
struct KvNotice {
  RequestId request = 0;
  std::int32_t prefill_rank = 0;  ///< -1: nobody sends it, the die makes the state of the prompt by itself
  std::int32_t prompt_tokens = 0, max_output = 0;
  moe::SamplerOptions sampler;
};

/// Tells a decode die how much of a request's KV will have come in the end.
struct KvDue {
  RequestId request = 0;
  std::int32_t tokens = 0, first_token = 0;
};

/// Requests that have ended: the die frees what it holds of them.
struct DropOrder {
  std::vector<RequestId> requests;
};

/// "I am still here": a worker's wait begins anew.
struct KeepAlive {};

struct StopOrder {
  Unfinished unfinished = Unfinished::none;
};

using Order = std::variant<StepOrder, KvNotice, KvDue, DropOrder, KeepAlive, StopOrder>;

// ---- reports ----

struct PrefillReport {
  std::vector<PrefillResult> results;
  std::map<std::string, std::uint64_t> misses = {};  ///< PrefillReported::misses
};

struct KvReport {
  RequestId request = 0;
};

struct DecodeReport {
  RunSpan exchange{};
  std::vector<DecodeReported::Token> tokens;
};

/// A worker's last report.
struct StoppedReport {
  WorkerStatistics statistics;
};

using Report = std::variant<PrefillReport, KvReport, DecodeReport, StoppedReport>;

// ---- KV ----

/// Tokens [first, first + count) of a request's prompt, in the form that the state of a sequence exports.
struct KvPiece {
  RequestId request = 0;
  std::int32_t first = 0, count = 0;
  std::uint64_t bytes_per_token = 0;
  std::span<const std::byte> bytes;     ///< count x bytes_per_token, in the message; none where payloads are elided
  std::span<const std::byte> end = {};  ///< in the piece with the prompt's last token: the state's end
};

// ---- reports of steps ----

/// Largest part of a report (encode_report()) that goes as one message.
inline constexpr std::size_t largest_step_piece = std::size_t{64} << 20;

/// A part of a report; the parts come in order.
struct StepPiece {
  std::uint64_t left = 0;            ///< bytes of the report behind this part
  std::span<const std::byte> bytes;  ///< in the message
};

// ---- bytes ----

/// A message with the time that its envelope carries.
template <class What>
struct Stamped {
  RunTime stamp{};
  What what;
};

MessageKind kind_of(const Order& order);
MessageKind kind_of(const Report& report);

std::vector<std::byte> encode(const Order& order, RunTime stamp);
std::vector<std::byte> encode(const Report& report, RunTime stamp);

/// @throws EnvironmentError saying what is wrong: too short, too long, another version, not an order (a report).
Stamped<Order> decode_order(std::span<const std::byte> message);
Stamped<Report> decode_report(std::span<const std::byte> message);

/// The head of a piece of `count` tokens; the message is the head, then the exported bytes, and then the end of the
/// state, if it has one and this is the last piece.
/// @param payload gets the place in the message that the caller fills: tokens, then the end
std::vector<std::byte> make_kv_piece(RequestId request, int first, int count, std::size_t bytes_per_token,
                                     RunTime stamp, std::span<std::byte>& payload, std::size_t end_bytes = 0);
/// `message` outlives the result. @throws EnvironmentError as above.
Stamped<KvPiece> decode_kv_piece(std::span<const std::byte> message);

/// The messages of a report. @param most bytes of it in one
std::vector<std::vector<std::byte>> make_step_pieces(std::span<const std::byte> report, RunTime stamp,
                                                     std::size_t most = largest_step_piece);
/// Whether the message is such a part, as far as its first bytes say.
bool is_step_piece(std::span<const std::byte> message);
/// `message` outlives the result. @throws EnvironmentError as above.
Stamped<StepPiece> decode_step_piece(std::span<const std::byte> message);

}  // namespace supernode::serving
