#pragma once
// What happens in a serving run, and what the coordinator orders. Plain data; times are on the run's clock.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "runtime/emulation/step_time.hpp"
#include "runtime/serving/load/metrics.hpp"
#include "runtime/serving/load/payload.hpp"
#include "runtime/serving/load/request.hpp"
#include "runtime/serving/load/run_time.hpp"
#include "runtime/serving/load/step_times.hpp"
#include "runtime/serving/record/instance_id.hpp"

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

/// Nobody wants the rest of a request. It may have ended already: then nothing happens.
struct Cancelled {
  RequestId request = 0;
};

/// What a prefill die did with a piece of one request's prompt.
struct PrefillResult {
  RequestId request = 0;
  SampledToken first_token;  ///< of the piece that ends the prompt; of others nothing
  int hit_tokens = 0;        ///< prompt tokens loaded from the pool; only the first piece has any
  int computed_tokens = 0;   ///< prompt tokens computed; over all pieces hit + computed = prompt
  RunSpan pool{};            ///< lookup and load
  RunSpan exchange{};        ///< its share of dispatch and combine within the step
  friend bool operator==(const PrefillResult&, const PrefillResult&) = default;
};

/// One die of a prefill instance has finished its part of a step.
struct PrefillReported {
  DieId die;
  std::vector<PrefillResult> results;
  /// Blocks that the pool did not have for it, by reason, where the die looks for itself.
  std::map<std::string, std::uint64_t> misses = {};
};

/// All that was to come of a request's KV (ExpectKv) is at its decode die.
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
  std::variant<Arrived, PrefillReported, KvArrived, DecodeReported, Cancelled> what;
};

// ---- commands ----

/// What a die does for one request in a step: a piece of its prompt, or its next token.
struct Work {
  RequestId request = 0;
  /// Tokens of the request before this step, the prompt's first. What the pool has of a prompt comes on top of it at
  /// its first piece.
  int first = 0;
  int count = 1;  ///< tokens to compute, at most: a prompt may end sooner than its first piece expects

  /// With the first piece of a prompt: what its die must know.
  struct Beginning {
    std::shared_ptr<const Request> request;
    DieId decode;  ///< where the KV goes; unused when the request ends with its first token
    /// Prefix tokens that the pool has for it and what is read from which owner, where the fleet knows it beforehand
    /// (modelled_fleet); -1: the die looks for itself.
    int granted_tokens = -1;
    std::vector<emulation::PoolLoad> loads = {};
  };
  std::optional<Beginning> begins = {};
};

/// A step of an instance: for each of its dies the requests that it works on (maybe none: the dies step together).
struct StartStep {
  InstanceId instance;
  std::vector<std::vector<Work>> by_die;
  std::vector<RunTime> start_by_die = {};  ///< empty: all at the time of the command
};

/// A decode die makes room for a request before its prompt is computed: KV of the prompt then comes in whenever a piece
/// is done.
struct ReserveKv {
  std::shared_ptr<const Request> request;
  DieId prefill;  ///< unused when the request's KV is in place (Request::placed_tokens)
  DieId decode;
};

/// All KV of a request that will come has been sent: `tokens` of its prompt. Its decode die says when they are there,
/// unless they are in place (Request::placed_tokens).
struct ExpectKv {
  std::shared_ptr<const Request> request;
  DieId decode;
  int tokens = 0;  ///< the prompt, or fewer of a request that ended before its prompt was computed
  std::int32_t first_token = 0;
};

/// Dies free what they hold of requests that have ended. A decode die that awaits KV of one (ExpectKv) throws it away
/// when it comes.
struct DropState {
  InstanceId instance;
  std::vector<std::vector<RequestId>> by_die;
};
/// Of one request on one die. @param dies of the instance
inline DropState drop_one(emulation::Stage stage, DieId die, int dies, RequestId request) {
  DropState drop{{stage, die.instance}, std::vector<std::vector<RequestId>>(static_cast<std::size_t>(dies))};
  drop.by_die[static_cast<std::size_t>(die.die)].push_back(request);
  return drop;
}

using Command = std::variant<StartStep, ReserveKv, ExpectKv, DropState>;

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
