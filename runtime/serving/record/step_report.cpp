#include "runtime/serving/record/step_report.hpp"

#include <algorithm>

#include "runtime/core/byte_stream.hpp"
#include "runtime/core/error.hpp"

namespace supernode::serving {
namespace {

void put(ByteWriter& to, RunTime time) { to.put(time.time_since_epoch().count()); }
RunTime get_time(ByteReader& from) { return RunTime(RunSpan(from.get<std::int64_t>())); }
WallTime get_wall(ByteReader& from) { return {from.get<double>()}; }

constexpr std::size_t kLeastDie = 2 * 8 + 2 * 8 + 3 * 8 + 8;
constexpr std::size_t kLeastTask = 8 + 4 * 4;

void put_timeline(ByteWriter& to, const StepTimeline& line) {
  to.put<std::uint64_t>(line.streams.size());
  for (const std::string& name : line.streams) to.put_text(name);
  to.put<std::uint64_t>(line.tasks.size());
  for (const StepTimeline::Task& task : line.tasks) {
    to.put_text(task.name);
    to.put<std::int32_t>(task.stream).put<std::int32_t>(task.after);
    to.put<std::int32_t>(task.place.layer).put<std::int32_t>(task.place.microbatch);
  }
  to.put_all(std::span<const std::int64_t>(line.begins)).put_all(std::span<const std::int64_t>(line.ends));
}

StepTimeline get_timeline(ByteReader& from, std::size_t dies) {
  StepTimeline line;
  line.streams.resize(from.get_count(sizeof(std::uint64_t)));
  for (std::string& name : line.streams) name = from.get_text();
  line.tasks.resize(from.get_count(kLeastTask));
  for (std::size_t i = 0; i < line.tasks.size(); ++i) {
    StepTimeline::Task& task = line.tasks[i];
    task.name = from.get_text();
    task.stream = from.get<std::int32_t>();
    task.after = from.get<std::int32_t>();
    task.place.layer = from.get<std::int32_t>();
    task.place.microbatch = from.get<std::int32_t>();
    if (task.stream < 0 || task.stream >= static_cast<int>(line.streams.size()) || task.after >= static_cast<int>(i))
      throw EnvironmentError("report of a step with a task of no stream, or one that waits for a later one");
  }
  line.begins = from.get_all<std::int64_t>();
  line.ends = from.get_all<std::int64_t>();
  if (line.begins.size() != dies * line.tasks.size() || line.ends.size() != line.begins.size())
    throw EnvironmentError("report of a step with too many or too few times");
  return line;
}

}  // namespace

bool operator==(const StepTimeline::Task& a, const StepTimeline::Task& b) {
  return a.name == b.name && a.stream == b.stream && a.after == b.after && a.place.layer == b.place.layer &&
         a.place.microbatch == b.place.microbatch;
}

StepTimeline step_timeline(std::span<const emulation::Timeline> timelines, std::span<const RunTime> starts,
                           std::span<const RunTime> ends) {
  StepTimeline line;
  if (timelines.empty()) return line;
  line.streams = timelines[0].streams();
  for (const emulation::Task& task : timelines[0].tasks())
    line.tasks.push_back({task.name, task.stream, task.after.empty() ? -1 : task.after[0], task.place});
  for (std::size_t die = 0; die < timelines.size(); ++die) {
    expect(timelines[die].tasks().size() == line.tasks.size(), "dies of an instance do different tasks");
    for (const emulation::Task& task : timelines[die].tasks()) {
      // Rounding must not move a task out of its step.
      const auto at = [&](ModelTime since) {
        return std::min(starts[die] + run_span(since.value), ends[die]).time_since_epoch().count();
      };
      line.begins.push_back(at(task.begin));
      line.ends.push_back(at(task.end));
    }
  }
  return line;
}

std::vector<std::byte> encode_report(const StepReport& report) {
  ByteWriter to;
  std::size_t bytes = 64;
  for (const StepReport::Die& die : report.dies) bytes += kLeastDie + die.record.size();
  if (report.timeline) bytes += 64 * report.timeline->tasks.size() + 16 * report.timeline->begins.size();
  to.reserve(bytes);
  to.put(report.step).put(report.exchange.count()).put(report.wall_priced.value);
  to.put<std::uint64_t>(report.dies.size());
  for (const StepReport::Die& die : report.dies) {
    put(to, die.start);
    put(to, die.end);
    to.put(die.wall_begin.value).put(die.wall_end.value).put(die.sequences).put(die.tokens).put(die.context);
    to.put_all(std::span<const std::byte>(die.record));
  }
  to.put(report.timeline.has_value());
  if (report.timeline) put_timeline(to, *report.timeline);
  return to.take();
}

StepReport decode_step_report(std::span<const std::byte> bytes) {
  ByteReader from(bytes);
  StepReport report;
  report.step = from.get<std::int64_t>();
  report.exchange = RunSpan(from.get<std::int64_t>());
  report.wall_priced = get_wall(from);
  report.dies.resize(from.get_count(kLeastDie));
  for (StepReport::Die& die : report.dies) {
    die.start = get_time(from);
    die.end = get_time(from);
    die.wall_begin = get_wall(from);
    die.wall_end = get_wall(from);
    die.sequences = from.get<double>();
    die.tokens = from.get<double>();
    die.context = from.get<double>();
    die.record = from.get_all<std::byte>();
  }
  if (from.get<bool>()) report.timeline = get_timeline(from, report.dies.size());
  from.finish();
  return report;
}

}  // namespace supernode::serving
