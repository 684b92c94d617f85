#pragma once
// Who may leave the queue, and where it will decode. Pure.

#include <optional>

#include "runtime/serving/coordinator/fleet_state.hpp"

namespace supernode::serving {

/// A request is admitted when a decode die has a free slot and KV room for its prompt and whole output, so that
/// decoding never runs out of room, and when fewer than `max_concurrency` requests are in flight.
class Admission {
 public:
  /// @param max_concurrency 0: no limit
  explicit Admission(int max_concurrency) : max_concurrency_(max_concurrency) {}

  /// The decode die with the most free KV that has room; of equals the first. Nothing when the request must wait.
  /// O(decode dies).
  std::optional<DieId> place(const Request& request, const FleetState& fleet) const;
  /// Takes the room of an admitted request, and gives it back when the request ends.
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
