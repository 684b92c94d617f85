#include "runtime/core/mpi/deadline.hpp"

#include <thread>

#include <fmt/format.h>
#include <sched.h>

namespace supernode {

void SpinWait::turn() {
  constexpr unsigned pauses = 64, yields = 2000;
  ++turns_;
  if (turns_ < pauses) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  } else if (turns_ < pauses + yields || idle_ == Idle::spin) {
    sched_yield();
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void throw_timeout(const std::string& what, double seconds) {
  throw TimeoutError(fmt::format("{} within {:g} s", what, seconds));
}

}  // namespace supernode
