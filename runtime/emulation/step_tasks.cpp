#include "runtime/emulation/step_tasks.hpp"

#include <algorithm>
#include <utility>

namespace supernode::emulation {

StepTasks::StepTasks(std::vector<std::string> streams, std::span<const ModelTime> starts)
    : streams_(std::move(streams)), starts_(starts.begin(), starts.end()), last_(streams_.size(), -1) {}

int StepTasks::begin(const char* name, int stream, int after, TaskPlace place, std::optional<ExchangeTask> exchange) {
  const auto task = static_cast<int>(tasks_.size());
  const std::size_t n = starts_.size(), at = begins_.size();
  int& last = last_[static_cast<std::size_t>(stream)];
  begins_.insert(begins_.end(), starts_.begin(), starts_.end());
  for (const int earlier : {last, after}) {
    if (earlier < 0) continue;
    const ModelTime* end = ends_.data() + static_cast<std::size_t>(earlier) * n;
    for (std::size_t die = 0; die < n; ++die) begins_[at + die] = std::max(begins_[at + die], end[die]);
  }
  ends_.resize(begins_.size());
  tasks_.push_back({name, stream, after, place, exchange});
  return last = task;
}

int StepTasks::add(const char* name, int stream, int after, std::span<const ModelTime> durations, TaskPlace place) {
  const int task = begin(name, stream, after, place);
  const std::span<const ModelTime> from = begins(task);
  const std::span<ModelTime> to = ends(task);
  for (std::size_t die = 0; die < to.size(); ++die) to[die] = from[die] + durations[die];
  return task;
}

std::vector<ModelTime> StepTasks::last_ends() const {
  std::vector<ModelTime> last = starts_;
  for (const int task : last_) {
    if (task < 0) continue;
    const std::span<const ModelTime> end = ends(task);
    for (std::size_t die = 0; die < last.size(); ++die) last[die] = std::max(last[die], end[die]);
  }
  return last;
}

Timeline StepTasks::timeline(int die) const {
  Timeline line(streams_);
  const auto i = static_cast<std::size_t>(die);
  for (int task = 0; task < static_cast<int>(tasks_.size()); ++task) {
    const StepTask& of = tasks_[static_cast<std::size_t>(task)];
    const ModelTime duration = ends(task)[i] - begins(task)[i];
    line.add(of.name, of.stream, duration, of.after < 0 ? std::vector<int>{} : std::vector<int>{of.after}, of.place);
  }
  return line;
}

}  // namespace supernode::emulation
