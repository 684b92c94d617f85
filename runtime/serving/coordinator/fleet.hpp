#pragma once
// The coordinator's view of its workers and of what arrives: events come out, commands go in.

#include <map>
#include <string>
#include <vector>

#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

/// Rank 0 only. On the wall clock events come as they happen; on a modelled clock a fleet holds them back until none
/// earlier can follow.
class Fleet {
 public:
  virtual ~Fleet() = default;
  /// The next event, in order of time. @pre !quiet() @throws TimeoutError naming the die that was waited for.
  virtual Event next() = 0;
  /// Carries a command out; `now` is the time of the event that caused it.
  virtual void perform(const Command& command, RunTime now) = 0;
  /// Nothing happens any more unless it is ordered: no request will come, and no die owes a report.
  virtual bool quiet() const = 0;
  /// Blocks that the pool did not have so far, by reason.
  virtual std::map<std::string, std::uint64_t> miss_reasons() const { return {}; }
  /// Tells all dies to stop. @pre quiet() @param unfinished what becomes of requests that have not ended @returns what they counted, added up. @throws TimeoutError naming a rank that
  /// does not stop.
  virtual WorkerStatistics stop(Unfinished unfinished) = 0;
};

}  // namespace supernode::serving
