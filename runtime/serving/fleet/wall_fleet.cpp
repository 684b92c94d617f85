#include "runtime/serving/fleet/wall_fleet.hpp"

#include <utility>

#include "runtime/core/mpi/deadline.hpp"

namespace supernode::serving {

WallFleet::WallFleet(const ServingConfig& config, RequestSource& source, MessagePort& port, double deadline_s,
                     WallTime (*clock)())
    : source_(source), link_(config, port, deadline_s, clock), start_(clock()) {}

Event WallFleet::next() {
  SpinWait spin(Idle::bell);
  for (;;) {
    // One look at the clock for all: an arrival that is found later is then never earlier than a report found now.
    const WallTime looked = link_.now();
    link_.keep_alive(looked, run_time(looked));
    if (std::optional<Event> arrival = source_.poll(run_time(looked))) return std::move(*arrival);
    if (auto report = link_.poll()) {
      Event event{run_time(looked), {}};
      if (auto* batch = std::get_if<PrefillReported>(&report->what)) {
        for (const auto& [reason, blocks] : batch->misses) missed_[reason] += blocks;
        event.what = std::move(*batch);
      }
      if (auto* kv = std::get_if<KvArrived>(&report->what)) event.what = *kv;
      if (auto* iteration = std::get_if<DecodeReported>(&report->what)) event.what = std::move(*iteration);
      return event;
    }
    link_.give_up_if_overdue(looked);
    spin.turn();
  }
}

}  // namespace supernode::serving
