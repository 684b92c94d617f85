#include "runtime/emulation/machine/streams.hpp"

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

std::string chrome_trace(const std::vector<std::pair<std::string, const Timeline*>>& timelines) {
  Json events = Json::array();
  for (std::size_t process = 0; process < timelines.size(); ++process) {
    const auto& [name, timeline] = timelines[process];
    events.push_back({{"name", "process_name"}, {"ph", "M"}, {"pid", process}, {"args", {{"name", name}}}});
    for (std::size_t i = 0; i < timeline->streams().size(); ++i)
      events.push_back({{"name", "thread_name"},
                        {"ph", "M"},
                        {"pid", process},
                        {"tid", i},
                        {"args", {{"name", timeline->streams()[i]}}}});
    for (const Task& task : timeline->tasks())
      events.push_back({{"name", task.name},
                        {"ph", "X"},
                        {"pid", process},
                        {"tid", task.stream},
                        {"ts", task.begin.us()},
                        {"dur", task.duration.us()}});
  }
  return Json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump();
}

}  // namespace supernode::emulation
