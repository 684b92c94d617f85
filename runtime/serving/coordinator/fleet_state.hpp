#pragma once
// What the scheduler knows of its instances: who is busy, what is under way, what room is left.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/serving/load/coordinator_figures.hpp"
#include "runtime/serving/serving_config.hpp"
#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

struct PrefillInstanceState {
  /// A prompt of which this instance has begun a piece.
  struct Prompt {
    RequestId request = 0;
    int die = 0;
    int done = 0, tokens = 0;  ///< in the die's state; of the prompt
    int in_step = 0;           ///< tokens of the running step; 0: it has none
    bool shared = false;       ///< by all dies of the instance; `die` reports it
    int left() const { return tokens - done; }
  };
  std::vector<Prompt> prompts;  ///< that are not whole, in the order in which they began
  /// [die]: results that its report of the running step must hold; nothing when no report is missing
  std::vector<std::optional<std::size_t>> missing_results;
  RunTime started{};        ///< of the running step, or the last one
  RunSpan last_step{};      ///< how long the last step took that has ended
  std::uint64_t steps = 0;  ///< that have ended
  bool lost = false;        ///< it takes no step any more

  bool idle() const {
    return !lost && std::none_of(missing_results.begin(), missing_results.end(),
                                 [](const auto& one) { return one.has_value(); });
  }
  /// Prompt tokens that its dies have still to compute, those of the running step included.
  std::int64_t tokens_left() const {
    std::int64_t sum = 0;
    for (const Prompt& prompt : prompts) sum += prompt.left();
    return sum;
  }
  std::vector<Prompt>::iterator find(RequestId request) {
    return std::find_if(prompts.begin(), prompts.end(), [&](const Prompt& p) { return p.request == request; });
  }
};

struct DecodeDieState {
  std::int64_t free_kv_tokens = 0;
  int free_slots = 0;
};

struct FleetState {
  std::vector<PrefillInstanceState> prefill;
  std::vector<std::vector<DecodeDieState>> decode;  ///< [instance][die]
  std::vector<int> held_back;     ///< [instance] slots of each die that its TPOT objective keeps empty
  std::vector<bool> decode_lost;  ///< [instance] it takes no request any more
  int in_flight = 0;              ///< requests that hold room on a decode die

  /// Everything idle and empty.
  explicit FleetState(const ServingConfig& config)
      : prefill(static_cast<std::size_t>(config.prefill_instances),
                {{},
                 std::vector<std::optional<std::size_t>>(static_cast<std::size_t>(config.prefill_dies)),
                 {},
                 {},
                 0,
                 false}),
        decode(static_cast<std::size_t>(config.decode_instances),
               std::vector<DecodeDieState>(static_cast<std::size_t>(config.decode_dies),
                                           {config.decode_kv_tokens, config.max_decode_batch})),
        held_back(static_cast<std::size_t>(config.decode_instances)),
        decode_lost(static_cast<std::size_t>(config.decode_instances)) {}

  DecodeDieState& at(DieId die) {
    return decode.at(static_cast<std::size_t>(die.instance)).at(static_cast<std::size_t>(die.die));
  }
  /// What the decode dies have, and what of it is free.
  RoomFigures room(const ServingConfig& config) const {
    RoomFigures room;
    for (const auto& dies : decode)
      for (const DecodeDieState& die : dies) {
        room.kv_tokens += config.decode_kv_tokens;
        room.slots += config.max_decode_batch;
        room.free_kv_tokens += die.free_kv_tokens;
        room.free_slots += die.free_slots;
      }
    return room;
  }
  PrefillInstanceState& prefill_of(DieId die) { return prefill.at(static_cast<std::size_t>(die.instance)); }
  /// Nothing is under way, and all room is free.
  bool all_free(const ServingConfig& config) const {
    const auto free = [&](const DecodeDieState& die) {
      return die.free_kv_tokens == config.decode_kv_tokens && die.free_slots == config.max_decode_batch;
    };
    return in_flight == 0 &&
           std::all_of(
               prefill.begin(), prefill.end(),
               [](const PrefillInstanceState& one) { return (one.lost || one.idle()) && one.prompts.empty(); }) &&
           std::all_of(decode.begin(), decode.end(),
                       [&](const auto& dies) { return std::all_of(dies.begin(), dies.end(), free); });
  }
};

}  // namespace supernode::serving
