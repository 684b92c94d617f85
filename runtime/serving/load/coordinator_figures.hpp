#pragma once
// What the coordinator cost on the wall clock, and what room it had left at the end.

#include <cstdint>

#include "runtime/core/json.hpp"

namespace supernode::serving {

/// Of iterations that followed one another without a pause. Medians, since a host that is busy with something else at
/// times says nothing of the coordinator.
struct CoordinatorFigures {
  std::uint64_t iterations = 0;
  double requests = 0;      ///< median of an iteration
  double iteration_s = 0;   ///< from the order to the last die's report
  double turnaround_s = 0;  ///< from that report to the next order: what the dies wait for the policy and its messages
  double event_s = 0;       ///< mean over all events of the run: taken, decided, orders sent

  /// Of the time of an iteration and the wait behind it.
  double share() const { return iterations > 0 ? turnaround_s / (iteration_s + turnaround_s) : 0; }
};

/// Of all decode dies, when all requests have ended.
struct RoomFigures {
  std::int64_t kv_tokens = 0, free_kv_tokens = 0;
  std::int64_t slots = 0, free_slots = 0;
};

/// As results have them: `coordinator` and `room_at_end`.
Json to_json(const CoordinatorFigures& figures);
Json to_json(const RoomFigures& room);

}  // namespace supernode::serving
