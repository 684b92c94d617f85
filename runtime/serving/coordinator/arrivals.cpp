#include "runtime/serving/coordinator/arrivals.hpp"

#include <algorithm>
#include <utility>

namespace supernode::serving {

Arrivals::Arrivals(std::vector<Request> requests) {
  std::stable_sort(requests.begin(), requests.end(),
                   [](const Request& a, const Request& b) { return a.arrival_s < b.arrival_s; });
  requests_.reserve(requests.size());
  for (Request& request : requests) requests_.push_back(std::make_shared<const Request>(std::move(request)));
}

std::optional<RunTime> Arrivals::next_at() const {
  if (closed()) return std::nullopt;
  return RunTime(run_span(requests_[next_]->arrival_s));
}

std::optional<Event> Arrivals::poll(RunTime now) {
  const std::optional<RunTime> at = next_at();
  if (!at || *at > now) return std::nullopt;
  return Event{*at, Arrived{std::move(requests_[next_++])}};
}

}  // namespace supernode::serving
