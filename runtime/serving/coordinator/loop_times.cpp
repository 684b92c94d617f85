#include "runtime/serving/coordinator/loop_times.hpp"

#include <algorithm>

#include "runtime/core/statistics.hpp"

namespace supernode::serving {

void LoopTimes::ordered(const Event& event, const std::vector<Command>& commands) {
  const WallTime now = clock_();
  busy_s_ += (now - taken_).value;
  ++events_;
  const auto* report = std::get_if<DecodeReported>(&event.what);
  for (const Command& command : commands) {
    const auto* start = std::get_if<StartStep>(&command);
    if (!start || start->instance.stage != emulation::Stage::decode) continue;
    const auto index = static_cast<std::size_t>(start->instance.index);
    if (running_.size() <= index) running_.resize(index + 1);
    Running& running = running_[index];
    if (report && report->die.instance == start->instance.index)
      iterations_.push_back({running.requests, (taken_ - running.since).value, (now - taken_).value});
    running = {now, 0};
    for (const std::vector<Work>& works : start->by_die) running.requests += static_cast<double>(works.size());
  }
}

CoordinatorFigures LoopTimes::figures() const {
  const auto median = [&](double Iteration::*what) {
    std::vector<double> sample;
    for (const Iteration& one : iterations_) sample.push_back(one.*what);
    std::sort(sample.begin(), sample.end());
    return sample.empty() ? 0 : quantile(sample, 0.5);
  };
  return {.iterations = iterations_.size(),
          .requests = median(&Iteration::requests),
          .iteration_s = median(&Iteration::took_s),
          .turnaround_s = median(&Iteration::turnaround_s),
          .event_s = events_ > 0 ? busy_s_ / static_cast<double>(events_) : 0};
}

}  // namespace supernode::serving
