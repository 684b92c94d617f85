#pragma once
// A deadline for calls that block and cannot be interrupted, such as MPI_Win_flush. Everything that can be polled waits
// with wait_until() instead.

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace supernode {

/// A thread that looks at the clock a few times a second. It calls no MPI.
class Watchdog {
 public:
  Watchdog();
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Runs `call()`. When it has not returned after `seconds`, the process ends: "supernode: <describe()> within N s" on
  /// stderr, exit code 3, and the launcher ends the job. `describe` is called by the thread, while `call` runs.
  /// One guard at a time. Costs two locks of a mutex.
  template <class Call, class Describe>
  void guard(double seconds, Call&& call, Describe&& describe) {
    const Armed armed(*this, seconds, std::ref(describe));
    call();
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Armed {
    Armed(Watchdog& watchdog, double seconds, std::function<std::string()> describe);
    ~Armed();
    Watchdog& watchdog_;
  };
  void watch();

  std::mutex mutex_;  // of all below
  std::condition_variable stopped_;
  bool stop_ = false;
  Clock::time_point end_ = Clock::time_point::max();  // max: nothing is guarded
  double seconds_ = 0;
  std::function<std::string()> describe_;
  std::thread thread_;
};

}  // namespace supernode
