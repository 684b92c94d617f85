#include "runtime/serving/coordinator/run_watch.hpp"

#include <utility>

namespace supernode::serving {

void RunWatch::report(Progress progress, Tell tell, WallTime (*clock)()) {
  reporting_.emplace(Reporting{std::move(progress), std::move(tell), clock});
}

void RunWatch::on_token(RequestId request, std::int32_t token, RunTime time) {
  ++counts_.tokens;
  series_.token(time);
  sink_.on_token(request, token, time);
}

void RunWatch::on_end(ServedRequest served) {
  ++counts_.done;
  series_.ended(served.record.finished, served.completed());
  sink_.on_end(std::move(served));
}

/// An event ends one iteration at most.
void RunWatch::count_iterations() {
  counted_.resize(now_.decode.size());
  for (std::size_t i = 0; i < counted_.size(); ++i) {
    const LoadSnapshot::Instance& instance = now_.decode[i];
    if (std::exchange(counted_[i], instance.steps) == instance.steps) continue;
    iterations_.push_back({to_ms(instance.last_step), instance.last_batch, instance.last_tokens});
  }
}

void RunWatch::after(const Event& event, const Scheduler& scheduler, const Fleet& fleet) {
  if (std::holds_alternative<Arrived>(event.what)) series_.arrived(event.time);
  if (const auto* batch = std::get_if<PrefillReported>(&event.what))
    for (const PrefillResult& result : batch->results)
      series_.prefilled(event.time, result.hit_tokens, result.computed_tokens);
  if (scheduler.update(now_)) {
    count_iterations();
    series_.state(event.time, now_);
    series_.misses(event.time, fleet.miss_reasons());
  }
  if (!reporting_) return;
  const WallTime wall = reporting_->clock();
  if (!reporting_->progress.due(wall)) return;
  counts_.running = now_.running();
  counts_.queued = now_.queued;
  reporting_->tell(reporting_->progress.line(wall, counts_));
}

}  // namespace supernode::serving
