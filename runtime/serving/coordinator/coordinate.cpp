#include "runtime/serving/coordinator/coordinate.hpp"

#include "runtime/core/error.hpp"

namespace supernode::serving {

namespace {

/// @param last time of the event that was handed out last @returns whether the run was over before its requests were
bool serve_events(Scheduler& scheduler, Fleet& fleet, const std::function<bool()>& over, RunWatch* watch,
                  RunTime& last) {
  bool ended = false;
  // That every request has ended is not enough: a die without a request in the last batch still owes its empty report.
  while (!fleet.quiet()) {
    const Event event = fleet.next();
    last = event.time;
    if (watch) watch->taken();
    const std::vector<Command> commands = scheduler.handle(event);
    ended = ended || (over && over());
    if (!ended)
      for (const Command& command : commands) fleet.perform(command, event.time);
    if (watch) {
      watch->ordered(event, commands);
      watch->after(event, scheduler, fleet);
    }
  }
  return ended;
}

}  // namespace

WorkerStatistics coordinate(Scheduler& scheduler, Fleet& fleet, const std::function<bool()>& over, RunWatch* watch) {
  RunTime last{};
  try {
    if (serve_events(scheduler, fleet, over, watch, last)) return fleet.stop(Unfinished::abandoned);
    if (!scheduler.idle()) throw EnvironmentError("requests wait for a report that nobody owes");
    expect(scheduler.all_free(), "all requests have ended, but not all KV and slots are free");
    return fleet.stop(scheduler.lost().empty() ? Unfinished::none : Unfinished::lost);
  } catch (const Error& error) {
    scheduler.fail_all(error.what(), last);
    throw;
  }
}

}  // namespace supernode::serving
