#include "runtime/serving/coordinator/arrivals.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace supernode::serving {

Arrivals::Arrivals(std::vector<Request> requests) {
  std::stable_sort(requests.begin(), requests.end(),
                   [](const Request& a, const Request& b) { return a.arrival_s < b.arrival_s; });
  requests_.reserve(requests.size());
  for (Request& request : requests) {
    if (std::isfinite(request.cancel_s))
      cancellations_.emplace_back(RunTime(run_span(std::max(request.cancel_s, request.arrival_s))), request.id);
    requests_.push_back(std::make_shared<const Request>(std::move(request)));
  }
  std::stable_sort(cancellations_.begin(), cancellations_.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
}

std::optional<RunTime> Arrivals::next_at() const {
  std::optional<RunTime> next;
  if (!closed()) next = RunTime(run_span(requests_[next_]->arrival_s));
  if (next_cancellation_ < cancellations_.size()) {
    const RunTime cancelled = cancellations_[next_cancellation_].first;
    next = next ? std::min(*next, cancelled) : cancelled;
  }
  return next;
}

std::optional<Event> Arrivals::poll(RunTime now) {
  const std::optional<RunTime> at = next_at();
  if (!at || *at > now) return std::nullopt;
  if (!closed() && RunTime(run_span(requests_[next_]->arrival_s)) == *at)
    return Event{*at, Arrived{std::move(requests_[next_++])}};
  return Event{*at, Cancelled{cancellations_[next_cancellation_++].second}};
}

}  // namespace supernode::serving
