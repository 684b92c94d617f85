#include "runtime/core/mpi/deadline.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include <fmt/format.h>
#include <sched.h>

namespace supernode {

namespace {

/// Whether many more ranks than cores are here. Of this process; set before there are other threads.
bool crowded = false;

}  // namespace

void SpinWait::crowd() { crowded = true; }

bool SpinWait::turn() {
  constexpr unsigned pauses = 64, yields = 2000;
  constexpr unsigned usual_us = 50, crowded_us = 1000, longest_us = 100000;
  ++turns_;
  if (turns_ < pauses && !crowded) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
    return false;
  }
  if (!crowded && (turns_ < pauses + yields || idle_ == Idle::spin)) {
    sched_yield();
    return false;
  }
  sleep_us_ = crowded ? std::clamp(sleep_us_ + sleep_us_ / 4, crowded_us, longest_us) : usual_us;
  std::this_thread::sleep_for(std::chrono::microseconds(sleep_us_));
  return true;
}

void throw_timeout(const std::string& what, double seconds) {
  throw TimeoutError(fmt::format("{} within {:g} s", what, seconds));
}

}  // namespace supernode
