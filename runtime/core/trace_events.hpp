#pragma once
// Trace Event JSON, as chrome://tracing and Perfetto read it, written event by event: only the event at hand and a small
// buffer are in memory.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "runtime/core/json.hpp"

namespace supernode {

/// Processes and threads are rows of the picture; numbers are the caller's. Times are nanoseconds of one clock.
class TraceEvents {
 public:
  /// @param sink takes the text in pieces, the last one from finish(); what it throws comes through
  explicit TraceEvents(std::function<void(std::string_view)> sink);

  void name_process(int process, std::string_view name);
  void name_thread(int process, int thread, std::string_view name);
  /// Rows are shown in the order of `place`.
  void place_process(int process, int place);
  void place_thread(int process, int thread, int place);

  /// Spans of one thread lie behind or within one another. @param args an object, or null
  void span(int process, int thread, std::string_view name, std::int64_t begin_ns, std::int64_t end_ns,
            const Json& args = {});
  /// A figure of a process over time, from then on until its next value.
  void counter(int process, std::string_view name, std::int64_t at_ns, double value);
  /// A span of no thread: those of one `id` are shown together, and lie behind or within one another. Events of one id
  /// come in order of time, those of a span around those within it.
  void begin_of(std::uint64_t id, int process, std::string_view name, std::int64_t at_ns, const Json& args = {});
  void end_of(std::uint64_t id, int process, std::string_view name, std::int64_t at_ns);
  /// The end of the document; the last call.
  void finish();

 private:
  void metadata(std::string_view kind, int process, int thread, const Json& args);
  void async(char phase, std::uint64_t id, int process, std::string_view name, std::int64_t at_ns, const Json& args);
  void add(std::string_view event);

  std::function<void(std::string_view)> sink_;
  std::string buffer_;
  bool first_ = true;
};

}  // namespace supernode
