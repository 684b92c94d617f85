#pragma once
// Who may leave the queue, and where it will decode. Pure.

#include <optional>

#include "runtime/serving/coordinator/fleet_state.hpp"

namespace supernode::serving {

/// Whether KV of a prefill die goes to a decode die by preference, so that each prefill die serves a group of decode
/// dies of its own: the decode dies are dealt out to the prefill dies in order, or the other way round when there are
/// fewer of them. @param dies of an instance of each kind
constexpr bool connected(int prefill_die, int prefill_dies, int decode_die, int decode_dies) {
  const auto dealt = [](int one, int of, int to) { return static_cast<int>(static_cast<std::int64_t>(one) * to / of); };
  return decode_dies >= prefill_dies ? dealt(decode_die, decode_dies, prefill_dies) == prefill_die
                                     : dealt(prefill_die, prefill_dies, decode_dies) == decode_die;
}

/// A request is admitted when a decode die has a free slot and KV room for its prompt and whole output, so that
/// decoding never runs out of room; when its instance's TPOT objective allows one more; and when fewer than
/// `max_concurrency` requests are in flight.
class Admission {
 public:
  /// @param max_concurrency 0: no limit
  explicit Admission(int max_concurrency) : max_concurrency_(max_concurrency) {}

  /// The decode die with the most free KV that has room; of equals one that is connected to the prefill die, then the
  /// first. Nothing when the request must wait. O(decode dies).
  /// @param prefill_die within its instance; nothing: the request skips prefill
  std::optional<DieId> place(const Request& request, std::optional<int> prefill_die, const FleetState& fleet) const;
  /// Takes the room of an admitted request, and gives it back when its die has freed it.
  void reserve(const Request& request, DieId die, FleetState& fleet) const;
  void release(const Request& request, DieId die, FleetState& fleet) const;

  /// KV that a request takes on its decode die in the end, tokens.
  static std::int64_t kv_tokens(const Request& request) {
    return std::int64_t{request.prompt_tokens()} + request.max_output;
  }

 private:
  int max_concurrency_;
};

}  // namespace supernode::serving
