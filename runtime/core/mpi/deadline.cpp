#include "runtime/core/mpi/deadline.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include <fmt/format.h>
#include <sched.h>

#include "runtime/core/mpi/doorbell.hpp"

namespace supernode {

namespace {

/// Whether many more ranks than cores are here. Of this process; set before there are other threads.
bool crowded = false;

/// The next sleep in a crowd after one of `sleep_us`.
unsigned longer(unsigned sleep_us) {
  constexpr unsigned shortest = 1000, longest = 100000;
  return std::clamp(sleep_us + sleep_us / 4, shortest, longest);
}

}  // namespace

SpinWait::SpinWait(Idle idle) : idle_(idle), rings_(idle == Idle::bell ? doorbell::rings() : 0) {}

void SpinWait::crowd() { crowded = true; }

bool SpinWait::turn() {
  constexpr unsigned pauses = 64, yields = 2000;
  constexpr unsigned usual_us = 50;
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
  if (crowded && idle_ == Idle::bell && doorbell::hung()) {
    // A probe of MPI may take a message in and find it at the next look only.
    if (turns_ % 2 == 1) return false;
    // Messages of which parts are still missing have no bell, nor have those of other hosts.
    constexpr unsigned unheard_us = 200000;
    sleep_us_ = longer(sleep_us_);
    doorbell::wait(rings_, std::chrono::microseconds(doorbell::rung_by_all() ? unheard_us : sleep_us_));
    rings_ = doorbell::rings();
    return true;
  }
  sleep_us_ = crowded ? longer(sleep_us_) : usual_us;
  std::this_thread::sleep_for(std::chrono::microseconds(sleep_us_));
  return true;
}

void throw_timeout(const std::string& what, double seconds) {
  throw TimeoutError(fmt::format("{} within {:g} s", what, seconds));
}

}  // namespace supernode
