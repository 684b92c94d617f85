#pragma once
// How fast a die of this machine takes part in a token exchange: what does not depend on who sends what.

#include <algorithm>

#include "runtime/core/clock.hpp"
#include "runtime/core/phase.hpp"
#include "runtime/emulation/machine/machine.hpp"

namespace supernode::emulation {

/// Expected lateness of the last of `peers` peers, in units of the mean: the harmonic number 1 + 1/2 + ... + 1/peers.
inline double harmonic(int peers) {
  double sum = 0;
  for (int i = peers; i >= 1; --i) sum += 1.0 / i;
  return sum;
}

/// B/s from and to a die's own memory.
inline double memory_rate(const Machine& machine) {
  return machine.die.memory_gbps * 1e9 * machine.die.memory_efficiency;
}

/// Vector cores move the rows themselves; a few of them are as fast as all, fewer are not.
/// @param vector_share of the die's vector cores, in (0, 1]
inline double sending_share(const Machine& machine, double vector_share) {
  return std::min(1.0, vector_share * machine.die.vector_cores / machine.exchange.filling_cores);
}

/// Of the operator, before its first row leaves.
inline ModelTime exchange_start_up(const Machine& machine, Phase phase) {
  return {(phase == Phase::dispatch ? machine.exchange.dispatch_start_us : machine.exchange.combine_start_us) * 1e-6};
}

/// The copy engine must be told sizes: one more exchange, of counts, before the data. Direct writes need none.
inline ModelTime counts_exchange(const Machine& machine, bool direct_writes, int ranks) {
  if (direct_writes) return {};
  return {(machine.exchange.staged_start_us + machine.exchange.skew_us * harmonic(ranks)) * 1e-6};
}

/// Dispatch polls one flag of every peer and so waits for the latest; a token's combine waits only for its own experts,
/// which its start-up covers.
inline ModelTime latest_peer(const Machine& machine, Phase phase, int ranks) {
  return {phase == Phase::dispatch ? machine.exchange.skew_us * 1e-6 * harmonic(ranks) : 0};
}

/// Received rows in local memory: dispatch reads and writes each once to sort them by expert; combine reads each to add
/// it up.
inline ModelTime moving_time(const Machine& machine, Phase phase, double vector_share, double bytes) {
  const double passes = phase == Phase::dispatch ? 2 : 1;
  return {passes * bytes / (memory_rate(machine) * sending_share(machine, vector_share))};
}

}  // namespace supernode::emulation
