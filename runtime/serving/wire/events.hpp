#pragma once
// What happens in a serving run, and what the coordinator orders. Plain data; times are on the run's clock.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "runtime/emulation/die_step.hpp"
#include "runtime/serving/load/metrics.hpp"
#include "runtime/serving/load/payload.hpp"
#include "runtime/serving/load/request.hpp"
#include "runtime/serving/load/run_time.hpp"
#include "runtime/serving/load/step_times.hpp"

namespace supernode::serving {

/// A die of a prefill or decode instance.
struct DieId {
  int instance = 0;
  int die = 0;
  friend auto operator<=>(const DieId&, const DieId&) = default;
};

/// A token that a die drew; nothing when the logits were not finite.
using SampledToken = std::optional<std::int32_t>;

// ---- events ----

/// A request has come. The event owns it.
struct Arrived {
  std::shared_ptr<const Request> request;
};

/// What a prefill die did with one request.
struct PrefillResult {
  RequestId request = 0;
  SampledToken first_token;
  int hit_tokens = 0;       ///< prompt tokens loaded from the pool
  int computed_tokens = 0;  ///< prompt tokens computed; hit + computed = prompt
  RunSpan pool{};           ///< lookup and load
  RunSpan exchange{};       ///< its share of dispatch and combine within the step
  friend bool operator==(const PrefillResult&, const PrefillResult&) = default;
};

/// One die of a prefill instance has finished its part of a batch.
struct PrefillReported {
  DieId die;
  std::vector<PrefillResult> results;
};

/// A request's KV has arrived whole at its decode die.
struct KvArrived {
  DieId die;
  RequestId request = 0;
};

/// One die of a decode instance has finished an iteration.
struct DecodeReported {
  DieId die;
  RunSpan exchange{};
  struct Token {
    RequestId request = 0;
    SampledToken token;
    std::vector<std::int32_t> further = {};  ///< behind it, from an accepted guess
    friend bool operator==(const Token&, const Token&) = default;
  };
  std::vector<Token> tokens;
};

struct Event {
  RunTime time{};
  std::variant<Arrived, PrefillReported, KvArrived, DecodeReported> what;
};

// ---- commands ----

/// A batch for a prefill instance: for each of its dies the requests it prefills (maybe none: the dies step together).
struct StartPrefill {
  int instance = 0;
  struct Item {
    std::shared_ptr<const Request> request;
    DieId decode;  ///< where the KV goes; unused when the request ends with its first token
    /// Prefix tokens that the pool has for it and what is read from which owner, where the fleet knows it beforehand
    /// (modelled_fleet); -1: the die looks for itself.
    int granted_tokens = -1;
    std::vector<emulation::PoolLoad> loads = {};
  };
  std::vector<std::vector<Item>> by_die;
  std::vector<RunTime> start_by_die = {};  ///< empty: all at the time of the command
};

/// The KV of a request is on its way from a prefill die to a decode die, which makes room for it.
struct ExpectKv {
  std::shared_ptr<const Request> request;
  DieId prefill;  ///< unused when the request's KV is in place (Request::placed_tokens)
  DieId decode;
  std::int32_t first_token = 0;
};

/// One iteration of a decode instance: requests that join, for each of its dies. All requests already there go on.
struct StartDecode {
  int instance = 0;
  std::vector<std::vector<RequestId>> joins_by_die;
};

using Command = std::variant<StartPrefill, ExpectKv, StartDecode>;

// ---- the end of a run ----

/// What becomes of requests that have not ended when a fleet is told to stop.
enum class Unfinished : std::uint8_t {
  none,       ///< there are none; a die that has one is in error
  abandoned,  ///< the run is over: what was measured is enough
};

/// What a worker counted. The pool is a prefill die's, guesses are a decode die's.
struct WorkerStatistics {
  std::uint64_t lookups = 0, hits = 0;
  std::uint64_t stored_blocks = 0;  ///< written to the pool
  /// The pool had them already, or was getting them from another die. On a modelled clock blocks that were loaded are
  /// offered, too.
  std::uint64_t known_blocks = 0;
  std::uint64_t dropped_blocks = 0;  ///< the rest of those that were offered
  std::map<std::string, std::uint64_t> miss_reasons;
  std::map<std::string, std::uint64_t> drop_reasons = {};  ///< of dropped_blocks
  GuessCounts guesses = {};
  std::map<std::string, double> modelled_s = {};  ///< of the first die of an instance: where the modelled time went
  PayloadFigures payload = {};
  std::map<int, StepTimes> step_times = {};  ///< of dies, by rank

  WorkerStatistics& operator+=(const WorkerStatistics& other) {
    lookups += other.lookups;
    hits += other.hits;
    stored_blocks += other.stored_blocks;
    known_blocks += other.known_blocks;
    dropped_blocks += other.dropped_blocks;
    guesses += other.guesses;
    for (const auto& [reason, count] : other.miss_reasons) miss_reasons[reason] += count;
    for (const auto& [reason, count] : other.drop_reasons) drop_reasons[reason] += count;
    for (const auto& [part, seconds] : other.modelled_s) modelled_s[part] += seconds;
    payload += other.payload;
    step_times.insert(other.step_times.begin(), other.step_times.end());
    return *this;
  }
  friend bool operator==(const WorkerStatistics&, const WorkerStatistics&) = default;
};

/// The part of it that results show.
inline PoolFigures pool_figures(const WorkerStatistics& counts) {
  PoolFigures figures;
  figures.lookups = counts.lookups;
  figures.hits = counts.hits;
  figures.stored_blocks = counts.stored_blocks;
  figures.known_blocks = counts.known_blocks;
  figures.dropped_blocks = counts.dropped_blocks;
  figures.miss_reasons = counts.miss_reasons;
  figures.drop_reasons = counts.drop_reasons;
  return figures;
}

}  // namespace supernode::serving
