#pragma once
// Every wait has a deadline, and every polling loop yields the core: ranks may outnumber the cores.

#include <chrono>
#include <cstdint>
#include <string>

#include "runtime/core/error.hpp"

namespace supernode {

/// A point on the steady clock by which something must have happened.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Deadline(double seconds)
      : end_(Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds))),
        seconds_(seconds) {}
  bool expired() const { return Clock::now() >= end_; }
  double seconds() const noexcept { return seconds_; }  ///< the whole span, for messages

 private:
  Clock::time_point end_;
  double seconds_;
};

/// What a polling loop does that has found nothing for long.
enum class Idle {
  spin,   ///< goes on: in an exchange
  sleep,  ///< sleeps between its turns: in a service loop
  bell,   ///< the same, and whoever ends the wait rings (doorbell.hpp): in a crowd it sleeps until then
};

/// One turn of a polling loop. The first turns only pause the pipeline; then the core is yielded at each turn, and a loop
/// that may sleep does so shortly between its turns after about a millisecond of yielding.
///
/// Where many ranks share a core, those that wait take the time of those that work: each wakes up to find nothing.
/// crowd() makes them sleep longer.
class SpinWait {
 public:
  explicit SpinWait(Idle idle = Idle::spin);
  /// @returns whether it slept: the clock is worth a look then.
  bool turn();
  void reset() noexcept {
    turns_ = 0;
    sleep_us_ = 0;
  }

  /// From now on waits of this process reckon with many more ranks than cores: all of them sleep, those of Idle::spin
  /// too, at once, and the longer the longer they have waited: from 1 ms to 100 ms. Where bells hang, those of Idle::bell
  /// sleep until one rings, or no longer than that where there are other hosts.
  static void crowd();

 private:
  unsigned turns_ = 0;
  unsigned sleep_us_ = 0;  ///< of the last turn
  Idle idle_;
  std::uint32_t rings_ = 0;  ///< of this rank's bell before the caller last looked
};

/// @throws TimeoutError "<what> within <seconds> s"
[[noreturn]] void throw_timeout(const std::string& what, double seconds);

/// Calls `ready()` until it is true. `describe()` is called only on time-out and tells who waited for whom.
/// @throws TimeoutError after `seconds`.
template <class Ready, class Describe>
void wait_until(Ready&& ready, double seconds, Describe&& describe, Idle idle = Idle::spin) {
  if (ready()) return;
  const Deadline deadline(seconds);
  SpinWait spin(idle);
  for (unsigned turns = 1; !ready(); ++turns) {
    // The clock costs more than a turn that does not sleep; look at it now and then.
    if ((spin.turn() || turns % 64 == 0) && deadline.expired()) {
      if (ready()) return;
      throw_timeout(describe(), seconds);
    }
  }
}

}  // namespace supernode
