#include "runtime/core/mpi/deadline.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include <fmt/format.h>
#include <sched.h>

namespace supernode {

namespace {

constexpr std::chrono::microseconds shortest_sleep(50), longest_sleep(20000);

/// Of this process.
struct Crowd {
  std::chrono::microseconds sleep = shortest_sleep;
  unsigned yields = 2000;  ///< about a millisecond of them where nobody else wants the core
  bool all_sleep = false;
};
Crowd& crowd_here() {
  static Crowd crowd;
  return crowd;
}

}  // namespace

void SpinWait::crowd(double ranks_per_core) {
  Crowd& crowd = crowd_here();
  crowd = {};
  if (ranks_per_core <= 1) return;
  const auto wanted = std::chrono::duration_cast<std::chrono::microseconds>(ranks_per_core * shortest_sleep);
  crowd.sleep = std::min(wanted, longest_sleep);
  crowd.yields = static_cast<unsigned>(std::max(2.0, 200 / ranks_per_core));
  crowd.all_sleep = true;
}

void SpinWait::turn() {
  constexpr unsigned pauses = 64;
  const Crowd& crowd = crowd_here();
  ++turns_;
  if (turns_ < pauses) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  } else if (turns_ < pauses + crowd.yields || (idle_ == Idle::spin && !crowd.all_sleep)) {
    sched_yield();
  } else {
    std::this_thread::sleep_for(crowd.sleep);
  }
}

void throw_timeout(const std::string& what, double seconds) {
  throw TimeoutError(fmt::format("{} within {:g} s", what, seconds));
}

}  // namespace supernode
