#include "runtime/serving/record/trace_file.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {
namespace {

constexpr int kRequests = 1;
/// A die's rows: its steps, then one for each of its streams (two, and one row to spare).
constexpr int kRowsOfDie = 4;

int row_of(std::size_t die) { return static_cast<int>(die) * kRowsOfDie + 1; }
std::int64_t ns(RunTime time) { return time.time_since_epoch().count(); }
std::int64_t ns(WallTime time) { return run_span(time.value).count(); }

}  // namespace

TraceFile::TraceFile(const std::string& path, IfExists if_exists, const std::vector<Instance>& instances)
    : file_(path, if_exists), events_([this](std::string_view text) { file_.write(text); }) {
  events_.name_process(kRequests, "requests");
  events_.place_process(kRequests, kRequests);
  const auto count = static_cast<int>(instances.size());
  int process = kRequests;
  for (const Instance& instance : instances) {
    processes_[instance.id] = ++process;
    name_rows(process, to_string(instance.id), instance.dies);
    name_rows(process + count, "wall: " + to_string(instance.id), instance.dies);
  }
}

void TraceFile::name_rows(int process, const std::string& name, int dies) {
  events_.name_process(process, name);
  events_.place_process(process, process);
  for (int die = 0; die < dies; ++die) {
    const int row = row_of(static_cast<std::size_t>(die));
    events_.name_thread(process, row, fmt::format("die {}", die));
    events_.place_thread(process, row, row);
  }
}

void TraceFile::on_step(const InstanceId& instance, const StepReport& report) {
  const int process = processes_.at(instance);
  const std::string name = fmt::format("step {}", report.step);
  for (std::size_t die = 0; die < report.dies.size(); ++die) {
    const StepReport::Die& one = report.dies[die];
    const double share = std::min(1.0, to_seconds(report.exchange) / to_seconds(one.end - one.start));
    events_.span(
        process, row_of(die), name, ns(one.start), ns(one.end),
        {{"sequences", one.sequences}, {"tokens", one.tokens}, {"context", one.context}, {"exchange_share", share}});
  }
  add_wall(process + static_cast<int>(processes_.size()), name, report);
  if (report.timeline) add_tasks(process, report);
}

void TraceFile::add_wall(int process, const std::string& name, const StepReport& report) {
  for (std::size_t die = 0; die < report.dies.size(); ++die) {
    const StepReport::Die& one = report.dies[die];
    events_.span(process, row_of(die), name, ns(one.wall_begin), ns(one.wall_end));
  }
  // The first die waits for the others' records, and prices them.
  if (!report.dies.empty())
    events_.span(process, row_of(0), name + ": records and price", ns(report.dies[0].wall_end), ns(report.wall_priced));
}

/// Where a stream waits for a task of the other one, that is a span, too. An exchange waits within itself: what of it
/// passes before the last die has begun it is its argument.
void TraceFile::add_tasks(int process, const StepReport& report) {
  has_tasks_ = true;
  const StepTimeline& line = *report.timeline;
  expect(line.streams.size() < static_cast<std::size_t>(kRowsOfDie), "a die has more streams than rows in a trace");
  const std::size_t tasks = line.tasks.size();
  std::vector<std::int64_t> latest(tasks, 0);
  for (std::size_t i = 0; i < line.begins.size(); ++i) latest[i % tasks] = std::max(latest[i % tasks], line.begins[i]);
  for (std::size_t die = 0; die < report.dies.size(); ++die) {
    const auto row = [&](int stream) { return row_of(die) + 1 + stream; };
    for (int stream = 0; stream < static_cast<int>(line.streams.size()); ++stream) {
      events_.name_thread(process, row(stream),
                          fmt::format("die {}: {}", die, line.streams[static_cast<std::size_t>(stream)]));
      events_.place_thread(process, row(stream), row(stream));
    }
    std::vector<std::int64_t> free(line.streams.size(), ns(report.dies[die].start));
    for (std::size_t i = 0; i < tasks; ++i) {
      const StepTimeline::Task& task = line.tasks[i];
      const std::int64_t begin = line.begins[die * tasks + i], end = line.ends[die * tasks + i];
      std::int64_t& idle = free[static_cast<std::size_t>(task.stream)];
      if (begin > idle && task.after >= 0)
        events_.span(process, row(task.stream), "wait", idle, begin,
                     {{"for", line.tasks[static_cast<std::size_t>(task.after)].name}});
      idle = end;
      Json args = Json::object();
      if (task.place.layer >= 0) args["layer"] = task.place.layer;
      if (task.place.microbatch >= 0) args["microbatch"] = task.place.microbatch;
      if (task.name == "dispatch" || task.name == "combine") {
        args["phase"] = task.name;
        args["last_die_begins_later_us"] = static_cast<double>(std::min(latest[i], end) - begin) / 1e3;
      }
      events_.span(process, row(task.stream), task.name, begin, end, args);
    }
  }
}

void TraceFile::add_requests(std::span<const ServedRequest> requests) {
  for (const ServedRequest& served : requests) add_request(served);
}

void TraceFile::add_request(const ServedRequest& served) {
  const RequestRecord& r = served.record;
  const RequestId id = served.request->id;
  if (r.finished < r.arrived) return;
  const std::string name = fmt::format("request {}", id);
  events_.begin_of(id, kRequests, name, ns(r.arrived),
                   {{"prompt_tokens", served.request->prompt_tokens()},
                    {"hit_tokens", r.hit_tokens},
                    {"output_tokens", r.tokens.size()},
                    {"end", served.completed() ? "length" : "failed"}});
  const auto part = [&](const char* what, RunTime begin, RunTime end) {
    if (end <= begin) return;
    events_.begin_of(id, kRequests, what, ns(begin));
    events_.end_of(id, kRequests, what, ns(end));
  };
  if (served.completed()) {
    part("queue", r.arrived, r.prefill_started);
    part("pool", r.prefill_started, r.prefill_started + r.pool);
    part("prefill", r.prefill_started + r.pool, r.first_token);
    part("handover", r.first_token, r.decode_joined);
    part("decode", r.decode_joined, r.finished);
  }
  events_.end_of(id, kRequests, name, ns(r.finished));
}

/// Only where it changes: a value holds until the next one.
void TraceFile::add_counter(int process, const std::string& name, std::span<const double> times_s,
                            const SeriesTable& table, std::size_t column, double factor) {
  const std::size_t columns = table.shape.size() > 1 ? table.shape[1] : 1;
  double shown = -1;
  for (std::size_t bin = 0; bin < times_s.size(); ++bin) {
    const double value = factor * table.values[bin * columns + column];
    if (value != std::exchange(shown, value)) events_.counter(process, name, run_span(times_s[bin]).count(), value);
  }
}

void TraceFile::add_series(std::span<const SeriesTable> tables) {
  const auto times =
      std::find_if(tables.begin(), tables.end(), [](const SeriesTable& t) { return t.name == "time_s"; });
  if (times == tables.end() || times->values.size() < 2) return;
  const double a_second = 1 / (times->values[1] - times->values[0]);
  for (const SeriesTable& table : tables) {
    if (table.name == "queued") add_counter(kRequests, "queued", times->values, table, 0, 1);
    if (table.name == "hit_tokens" || table.name == "computed_tokens" || table.name == "output_tokens" ||
        table.name.starts_with("misses/"))
      add_counter(kRequests, table.name + "/s", times->values, table, 0, a_second);
    for (const auto& [id, process] : processes_)
      for (const char* what : {"requests", "kv_tokens"})
        if (table.name == fmt::format("{}/{}", name_of(id.stage), what))
          add_counter(process, what, times->values, table, static_cast<std::size_t>(id.index), 1);
  }
}

void TraceFile::close() {
  events_.finish();
  file_.commit();
}

}  // namespace supernode::serving
