#pragma once
// What happens in a serving run, and what the coordinator orders. Plain data; times are on the run's clock, whichever
// it is.

#include <cstdint>
#include <variant>
#include <vector>

namespace supernode::serving {

/// A point on the run's clock, or a span, in whole nanoseconds: parts of a request add up exactly.
using Nanoseconds = std::int64_t;

/// A die of a prefill or decode instance.
struct DieId {
  int instance = 0;
  int die = 0;
  friend bool operator==(const DieId&, const DieId&) = default;
};

// ---- events
// -----------------------------------------------------------------------------------------------------------

/// A request of the trace has arrived.
struct Arrived {
  std::size_t request = 0;  ///< index into the workload
};

/// What a prefill die did with one request.
struct PrefillResult {
  std::size_t request = 0;
  std::int32_t first_token = 0;
  int hit_tokens = 0;        ///< prompt tokens loaded from the pool
  int computed_tokens = 0;   ///< prompt tokens computed; hit + computed = prompt
  Nanoseconds pool = 0;      ///< lookup and load
  Nanoseconds exchange = 0;  ///< dispatch and combine within the step
};

/// One die of a prefill instance has finished its part of a batch.
struct PrefillReported {
  DieId die;
  std::vector<PrefillResult> results;
};

/// A request's KV has arrived whole at its decode die.
struct KvArrived {
  DieId die;
  std::size_t request = 0;
};

/// One die of a decode instance has finished an iteration.
struct DecodeReported {
  DieId die;
  Nanoseconds exchange = 0;
  struct Token {
    std::size_t request = 0;
    std::int32_t token = 0;
  };
  std::vector<Token> tokens;
};

struct Event {
  Nanoseconds time = 0;
  std::variant<Arrived, PrefillReported, KvArrived, DecodeReported> what;
};

// ---- commands
// ---------------------------------------------------------------------------------------------------------

/// A batch for a prefill instance: for each of its dies the requests it prefills (maybe none: the dies step together).
struct StartPrefill {
  int instance = 0;
  struct Item {
    std::size_t request = 0;
    DieId decode;  ///< where the KV goes; unused when the request ends with its first token
  };
  std::vector<std::vector<Item>> by_die;
};

/// Tells a decode die to fetch a request's KV from a prefill die.
struct FetchKv {
  std::size_t request = 0;
  DieId prefill, decode;
  std::int32_t first_token = 0;
};

/// One iteration of a decode instance: requests that join, for each of its dies. All requests already there go on.
struct StartDecode {
  int instance = 0;
  std::vector<std::vector<std::size_t>> joins_by_die;
};

using Command = std::variant<StartPrefill, FetchKv, StartDecode>;

// ---- the seams of the coordinator's loop
// --------------------------------------------------------------------------------

/// Where events come from, in order of time. On the wall clock they come as they happen; on a modelled clock the source
/// holds them back until none earlier can follow.
class EventSource {
 public:
  virtual ~EventSource() = default;
  /// The next event. @throws TimeoutError naming the die that was waited for.
  virtual Event next() = 0;
};

/// Where commands go.
class CommandSink {
 public:
  virtual ~CommandSink() = default;
  virtual void perform(const Command& command, Nanoseconds now) = 0;
};

}  // namespace supernode::serving
