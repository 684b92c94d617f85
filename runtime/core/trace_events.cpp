#include "runtime/core/trace_events.hpp"

#include <utility>

#include <fmt/format.h>

namespace supernode {
namespace {

constexpr std::size_t kPiece = 1 << 18;
constexpr int kNoThread = -1;

std::string quoted(std::string_view text) { return to_text(Json(text)); }

/// Trace events count in microseconds; the fraction keeps the nanoseconds.
std::string us(std::int64_t ns) { return fmt::format("{:.3f}", static_cast<double>(ns) / 1e3); }

std::string with_args(const Json& args) { return args.is_null() ? std::string() : ",\"args\":" + to_text(args); }

}  // namespace

TraceEvents::TraceEvents(std::function<void(std::string_view)> sink)
    : sink_(std::move(sink)), buffer_("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n") {}

void TraceEvents::add(std::string_view event) {
  if (!std::exchange(first_, false)) buffer_ += ",\n";
  buffer_ += event;
  if (buffer_.size() < kPiece) return;
  sink_(buffer_);
  buffer_.clear();
}

void TraceEvents::metadata(std::string_view kind, int process, int thread, const Json& args) {
  const std::string row = thread == kNoThread ? std::string() : fmt::format("\"tid\":{},", thread);
  add(fmt::format(R"({{"name":"{}","ph":"M","pid":{},{}"args":{}}})", kind, process, row, to_text(args)));
}

void TraceEvents::name_process(int process, std::string_view name) {
  metadata("process_name", process, kNoThread, {{"name", name}});
}
void TraceEvents::name_thread(int process, int thread, std::string_view name) {
  metadata("thread_name", process, thread, {{"name", name}});
}
void TraceEvents::place_process(int process, int place) {
  metadata("process_sort_index", process, kNoThread, {{"sort_index", place}});
}
void TraceEvents::place_thread(int process, int thread, int place) {
  metadata("thread_sort_index", process, thread, {{"sort_index", place}});
}

void TraceEvents::span(int process, int thread, std::string_view name, std::int64_t begin_ns, std::int64_t end_ns,
                       const Json& args) {
  add(fmt::format(R"({{"name":{},"ph":"X","pid":{},"tid":{},"ts":{},"dur":{}{}}})", quoted(name), process, thread,
                  us(begin_ns), us(end_ns - begin_ns), with_args(args)));
}

void TraceEvents::async(char phase, std::uint64_t id, int process, std::string_view name, std::int64_t at_ns,
                        const Json& args) {
  add(fmt::format(R"({{"name":{},"cat":"span","ph":"{}","id":{},"pid":{},"tid":0,"ts":{}{}}})", quoted(name), phase, id,
                  process, us(at_ns), with_args(args)));
}

void TraceEvents::counter(int process, std::string_view name, std::int64_t at_ns, double value) {
  add(fmt::format(R"({{"name":{},"ph":"C","pid":{},"ts":{},"args":{{"value":{}}}}})", quoted(name), process, us(at_ns),
                  value));
}

void TraceEvents::begin_of(std::uint64_t id, int process, std::string_view name, std::int64_t at_ns, const Json& args) {
  async('b', id, process, name, at_ns, args);
}
void TraceEvents::end_of(std::uint64_t id, int process, std::string_view name, std::int64_t at_ns) {
  async('e', id, process, name, at_ns, {});
}

void TraceEvents::finish() {
  buffer_ += "\n]}\n";
  sink_(buffer_);
  buffer_.clear();
}

}  // namespace supernode
