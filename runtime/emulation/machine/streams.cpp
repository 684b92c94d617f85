#include "runtime/emulation/machine/streams.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "runtime/core/trace_events.hpp"

namespace supernode::emulation {

int Timeline::add(const char* name, int stream, ModelTime duration, std::vector<int> after, TaskPlace place) {
  const auto index = static_cast<int>(tasks_.size());
  if (stream < 0 || stream >= static_cast<int>(streams_.size())) throw std::invalid_argument("no such stream");
  int& last = last_[static_cast<std::size_t>(stream)];
  ModelTime begin = last < 0 ? ModelTime{} : tasks_[static_cast<std::size_t>(last)].end;
  for (const int earlier : after) {
    if (earlier < 0 || earlier >= index) throw std::invalid_argument("a task can only wait for earlier ones");
    begin = std::max(begin, tasks_[static_cast<std::size_t>(earlier)].end);
  }
  tasks_.push_back({name, stream, duration, std::move(after), last, begin, begin + duration, place});
  return last = index;
}

ModelTime Timeline::end() const {
  ModelTime end;
  for (const int last : last_)
    if (last >= 0) end = std::max(end, tasks_[static_cast<std::size_t>(last)].end);
  return end;
}

std::vector<int> Timeline::critical_tasks() const {
  const auto ends_sooner = [](const Task& a, const Task& b) { return a.end < b.end; };
  const auto latest = std::max_element(tasks_.begin(), tasks_.end(), ends_sooner);
  std::vector<int> path;
  for (int index = latest == tasks_.end() ? -1 : static_cast<int>(latest - tasks_.begin()); index >= 0;) {
    path.push_back(index);
    const Task& task = tasks_[static_cast<std::size_t>(index)];
    // A task begins when its stream is free or when what it waits for is done, whichever is later: one of them is it.
    const auto decides = [&](int earlier) {
      return earlier >= 0 && tasks_[static_cast<std::size_t>(earlier)].end == task.begin;
    };
    const auto awaited = std::find_if(task.after.begin(), task.after.end(), decides);
    index = decides(task.before) ? task.before : awaited != task.after.end() ? *awaited : -1;
  }
  std::reverse(path.begin(), path.end());
  return path;
}

Terms Timeline::critical_path() const {
  Terms terms;
  for (const int index : critical_tasks()) {
    const Task& task = tasks_[static_cast<std::size_t>(index)];
    terms.lengthen(task.name, task.duration);
  }
  return terms;
}

ModelTime Timeline::busy(int stream) const {
  ModelTime sum;
  for (const Task& task : tasks_)
    if (task.stream == stream) sum += task.duration;
  return sum;
}

std::string chrome_trace(const std::vector<std::pair<std::string, const Timeline*>>& timelines) {
  std::string text;
  TraceEvents events([&](std::string_view piece) { text += piece; });
  const auto ns = [](ModelTime time) { return std::llround(time.value * 1e9); };
  for (std::size_t i = 0; i < timelines.size(); ++i) {
    const auto& [name, timeline] = timelines[i];
    const auto process = static_cast<int>(i);
    events.name_process(process, name);
    for (std::size_t stream = 0; stream < timeline->streams().size(); ++stream)
      events.name_thread(process, static_cast<int>(stream), timeline->streams()[stream]);
    for (const Task& task : timeline->tasks())
      events.span(process, task.stream, task.name, ns(task.begin), ns(task.end));
  }
  events.finish();
  return text;
}

}  // namespace supernode::emulation
