#pragma once
// What the scheduler knows of its instances: who is busy, what room is left.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/serving/serving_config.hpp"
#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

struct PrefillInstanceState {
  /// [die]: results that its report of the running batch must hold; nothing when no report is missing
  std::vector<std::optional<std::size_t>> missing_results;
  RunTime started{};          ///< of the running batch, or the last one
  RunSpan last_batch{};       ///< how long the last batch took that has ended
  std::uint64_t batches = 0;  ///< that have ended
  bool idle() const {
    return std::none_of(missing_results.begin(), missing_results.end(),
                        [](const auto& one) { return one.has_value(); });
  }
};

struct DecodeDieState {
  std::int64_t free_kv_tokens = 0;
  int free_slots = 0;
};

struct FleetState {
  std::vector<PrefillInstanceState> prefill;
  std::vector<std::vector<DecodeDieState>> decode;  ///< [instance][die]
  int in_flight = 0;                                ///< requests that have left the queue and not ended

  /// Everything idle and empty.
  explicit FleetState(const ServingConfig& config)
      : prefill(static_cast<std::size_t>(config.prefill_instances),
                {std::vector<std::optional<std::size_t>>(static_cast<std::size_t>(config.prefill_dies)), {}, {}, 0}),
        decode(static_cast<std::size_t>(config.decode_instances),
               std::vector<DecodeDieState>(static_cast<std::size_t>(config.decode_dies),
                                           {config.decode_kv_tokens, config.max_decode_batch})) {}

  DecodeDieState& at(DieId die) {
    return decode.at(static_cast<std::size_t>(die.instance)).at(static_cast<std::size_t>(die.die));
  }
};

}  // namespace supernode::serving
