#include "runtime/emulation/streams.hpp"

#include <algorithm>
#include <stdexcept>

#include "runtime/core/json.hpp"

namespace supernode::emulation {

int Timeline::add(std::string name, int stream, ModelTime duration, std::vector<int> after) {
  const auto index = static_cast<int>(tasks_.size());
  if (stream < 0 || stream >= static_cast<int>(streams_.size())) throw std::invalid_argument("no such stream");
  ModelTime begin = free_[static_cast<std::size_t>(stream)];
  for (const int earlier : after) {
    if (earlier < 0 || earlier >= index) throw std::invalid_argument("a task can only wait for earlier ones");
    begin = std::max(begin, tasks_[static_cast<std::size_t>(earlier)].end);
  }
  const ModelTime end = begin + duration;
  free_[static_cast<std::size_t>(stream)] = end;
  tasks_.push_back({std::move(name), stream, duration, std::move(after), begin, end});
  return index;
}

ModelTime Timeline::end() const {
  ModelTime last;
  for (const ModelTime time : free_) last = std::max(last, time);
  return last;
}

ModelTime Timeline::busy(int stream) const {
  ModelTime sum;
  for (const Task& task : tasks_)
    if (task.stream == stream) sum += task.duration;
  return sum;
}

std::string Timeline::chrome_trace(const std::string& process) const {
  Json events = Json::array();
  events.push_back({{"name", "process_name"}, {"ph", "M"}, {"pid", 0}, {"args", {{"name", process}}}});
  for (std::size_t i = 0; i < streams_.size(); ++i)
    events.push_back({{"name", "thread_name"}, {"ph", "M"}, {"pid", 0}, {"tid", i}, {"args", {{"name", streams_[i]}}}});
  for (const Task& task : tasks_)
    events.push_back({{"name", task.name},
                      {"ph", "X"},
                      {"pid", 0},
                      {"tid", task.stream},
                      {"ts", task.begin.us()},
                      {"dur", task.duration.us()}});
  return Json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump();
}

}  // namespace supernode::emulation
