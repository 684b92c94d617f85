#include "runtime/serving/coordinator/admission.hpp"

namespace supernode::serving {

std::optional<DieId> Admission::place(const Request& request, std::optional<int> prefill_die,
                                      const FleetState& fleet) const {
  if (max_concurrency_ > 0 && fleet.in_flight >= max_concurrency_) return std::nullopt;
  const auto prefill_dies = static_cast<int>(fleet.prefill.front().missing_results.size());
  std::optional<DieId> best;
  bool best_connected = false;
  std::int64_t most = kv_tokens(request) - 1;
  for (std::size_t i = 0; i < fleet.decode.size(); ++i) {
    if (fleet.decode_lost[i]) continue;
    const auto dies = static_cast<int>(fleet.decode[i].size());
    for (int d = 0; d < dies; ++d) {
      const DecodeDieState& die = fleet.decode[i][static_cast<std::size_t>(d)];
      if (die.free_slots <= fleet.held_back[i] || die.free_kv_tokens < most) continue;
      const bool near = prefill_die && connected(*prefill_die, prefill_dies, d, dies);
      const bool equal = die.free_kv_tokens == most;
      if (equal && (!best || best_connected || !near)) continue;
      most = die.free_kv_tokens;
      best = DieId{static_cast<int>(i), d};
      best_connected = near;
    }
  }
  return best;
}

void Admission::reserve(const Request& request, DieId die, FleetState& fleet) const {
  DecodeDieState& room = fleet.at(die);
  room.free_kv_tokens -= kv_tokens(request);
  --room.free_slots;
  ++fleet.in_flight;
}

void Admission::release(const Request& request, DieId die, FleetState& fleet) const {
  DecodeDieState& room = fleet.at(die);
  room.free_kv_tokens += kv_tokens(request);
  ++room.free_slots;
  --fleet.in_flight;
}

}  // namespace supernode::serving
