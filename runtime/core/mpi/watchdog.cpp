#include "runtime/core/mpi/watchdog.hpp"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "runtime/core/error.hpp"

namespace supernode {

Watchdog::Watchdog() : thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_one();
  thread_.join();
}

Watchdog::Armed::Armed(Watchdog& watchdog, double seconds, std::function<std::string()> describe)
    : watchdog_(watchdog) {
  const std::lock_guard lock(watchdog_.mutex_);
  watchdog_.end_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  watchdog_.seconds_ = seconds;
  watchdog_.describe_ = std::move(describe);
}

Watchdog::Armed::~Armed() {
  const std::lock_guard lock(watchdog_.mutex_);
  watchdog_.end_ = Clock::time_point::max();
  watchdog_.describe_ = nullptr;
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, std::chrono::milliseconds(100), [this] { return stop_; })) {
    if (Clock::now() < end_) continue;
    std::fprintf(stderr, "supernode: %s within %g s\n", describe_().c_str(), seconds_);
    std::fflush(nullptr);
    std::_Exit(static_cast<int>(ExitCode::environment));
  }
}

}  // namespace supernode
