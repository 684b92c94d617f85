#pragma once
// A decorator of what computes on the wall clock: it times a die's steps, and makes them slow or late where a failure is
// injected.

#include <vector>

#include "runtime/core/clock.hpp"
#include "runtime/serving/injection.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

class TimedEngine : public StepEngine {
 public:
  /// Failures start counting now. @param inner borrowed @param injections those of this rank, in order of their start
  /// @param now tests have their own
  TimedEngine(StepEngine& inner, std::vector<Injection> injections, WallTime (*now)() = wall_now);

  std::unique_ptr<EngineState> make_state(int max_tokens) override { return inner_.make_state(max_tokens); }
  std::size_t state_bytes_per_token() const override { return inner_.state_bytes_per_token(); }
  std::size_t state_end_bytes() const override { return inner_.state_end_bytes(); }
  GuessCounts guesses() const override { return inner_.guesses(); }
  void set_background(std::function<void()> work) override { inner_.set_background(std::move(work)); }
  /// A stall that is due comes before the step, out of MPI. A slow die goes on computing behind the step, until its
  /// computing has taken as long as the injection says; so the others wait for it at their next meeting.
  StepOutcome step(std::span<const StepWork> works, RunTime start) override;
  StepTimes step_times() const override { return times_.times(); }

 private:
  void stall_where_due();
  double seconds_since(WallTime start) const { return (now_() - start).value; }

  StepEngine& inner_;
  std::vector<Injection> injections_;
  WallTime (*const now_)();
  const WallTime start_;
  StepTimesSample times_;  ///< of the steps with tokens
};

}  // namespace supernode::serving
