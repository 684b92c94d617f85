#include "runtime/serving/coordinator/admission.hpp"

namespace supernode::serving {

std::optional<DieId> Admission::place(const Request& request, const FleetState& fleet) const {
  if (max_concurrency_ > 0 && fleet.in_flight >= max_concurrency_) return std::nullopt;
  std::optional<DieId> best;
  std::int64_t most = kv_tokens(request) - 1;
  for (std::size_t i = 0; i < fleet.decode.size(); ++i) {
    for (std::size_t d = 0; d < fleet.decode[i].size(); ++d) {
      const DecodeDieState& die = fleet.decode[i][d];
      if (die.free_slots == 0 || die.free_kv_tokens <= most) continue;
      most = die.free_kv_tokens;
      best = DieId{static_cast<int>(i), static_cast<int>(d)};
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
