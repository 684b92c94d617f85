#include "runtime/serving/load/coordinator_figures.hpp"

namespace supernode::serving {

Json to_json(const CoordinatorFigures& f) {
  const auto ms = [&](double seconds) { return f.iterations > 0 ? Json(seconds * 1e3) : Json(nullptr); };
  return {{"iterations", f.iterations},
          {"median_requests", f.requests},
          {"median_iteration_ms", ms(f.iteration_s)},
          {"median_turnaround_ms", ms(f.turnaround_s)},
          {"share_of_iteration", f.share()},
          {"mean_event_us", f.event_s * 1e6}};
}

Json to_json(const RoomFigures& room) {
  return {{"decode_kv_tokens", room.kv_tokens},
          {"free_kv_tokens", room.free_kv_tokens},
          {"decode_slots", room.slots},
          {"free_slots", room.free_slots}};
}

}  // namespace supernode::serving
