#pragma once
// What a token exchange costs: every rank writes rows to others, and is done when its own have come. Two views of one
// model: a rank's own (its row of bytes, then the arrivals that its peers announce), used while a program runs, and the
// whole matrix at once, used for planning; exchange_times() calls the rank's functions, so they agree to the bit.
//
// Sender: after its start-up a rank writes to all peers at once, in small turns, so that bytes for each path (own
// memory, the other die of the package, the fabric) flow evenly from `begin` until that path is done. Receiver: the
// fabric port is a queue that drains at the port's rate; bytes arrive as their senders sent them, one latency later. It
// ends when the queue is empty: a hot receiver pays for its bytes however many senders share them. Then come waiting
// for the flags of late peers, and moving the rows to where the next operator wants them.

#include <span>
#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/core/phase.hpp"
#include "runtime/emulation/machine/machine.hpp"
#include "runtime/emulation/machine/terms.hpp"

namespace supernode::emulation {

/// How the exchange is done; equal on all ranks.
struct ExchangeStyle {
  Phase phase = Phase::dispatch;
  int ranks = 1;              ///< of the group; sets how many flags are awaited
  double vector_share = 1;    ///< of the die's vector cores, in (0, 1]
  bool direct_writes = true;  ///< else through the copy engine, with counts exchanged first
};

/// When a rank's bytes leave, by path. Travels with each message.
struct Departure {
  ModelTime begin, self_end, package_end, fabric_end;
};

/// One peer's bytes for this rank.
struct Arrival {
  int from = 0;  ///< die
  double bytes = 0;
  Departure departure;
};

/// What die `self` does with its row of bytes when it starts at `start`. O(row).
/// @param row bytes for each rank of the group; @param dies the die of each rank; @param self index into both
Departure departure_of(const Machine& machine, const ExchangeStyle& style, std::span<const double> row,
                       std::span<const int> dies, int self, ModelTime start);

/// When a die has everything in place, and where the time since its start went.
struct Completion {
  ModelTime end;
  /// From the start on, what was waited for one after the other, without what took no time:
  ///   start-up                             of the operator
  ///   exchange of counts                   where rows go through the copy engine
  ///   waiting for a sender                 of the rows that came last
  ///   own memory, package link, fabric link  until that sender had written
  ///   latency                              of the link
  ///   queue at the port                    from then on, or from when the port was last idle
  ///   latest peer                          whose flag a dispatch awaits
  ///   rows in local memory                 moved to where the next operator wants them
  Terms terms;
};

/// When die `self` has everything in place. O(n log n) in the arrivals.
/// @param arrivals of all peers and of itself, in any order; those without bytes may be left out
Completion completion_of(const Machine& machine, const ExchangeStyle& style, std::span<const Arrival> arrivals,
                         int self, ModelTime start);

/// Whole-machine view: completion of every rank. @param bytes [ranks x ranks], row = sender; @param starts [ranks]
std::vector<ModelTime> exchange_times(const Machine& machine, const ExchangeStyle& style, std::span<const double> bytes,
                                      std::span<const int> dies, std::span<const ModelTime> starts);

/// The usual case, all ranks starting at 0: each sends `sent` bytes, evenly over the group, except that the busiest
/// sender has `hot_out` times that and the busiest receiver `hot_in` times. @returns the terms of the slowest rank.
/// The group sits on dies 0 .. ranks-1. Same functions, one sender and one receiver: O(ranks log ranks).
Terms exchange_time(const Machine& machine, const ExchangeStyle& style, double sent, double hot_out = 1,
                    double hot_in = 1);

}  // namespace supernode::emulation
