#include "runtime/serving/coordinator/coordinate.hpp"

#include "runtime/core/error.hpp"

namespace supernode::serving {

WorkerStatistics coordinate(Scheduler& scheduler, Fleet& fleet, const std::function<bool()>& over, RunWatch* watch) {
  bool ended = false;
  // That every request has ended is not enough: a die without a request in the last batch still owes its empty report.
  while (!fleet.quiet()) {
    const Event event = fleet.next();
    const std::vector<Command> commands = scheduler.handle(event);
    ended = ended || (over && over());
    if (!ended)
      for (const Command& command : commands) fleet.perform(command, event.time);
    if (watch) watch->after(event, scheduler, fleet);
  }
  if (ended) return fleet.stop(Unfinished::abandoned);
  if (!scheduler.idle()) throw EnvironmentError("requests wait for a report that nobody owes");
  expect(scheduler.all_free(), "all requests have ended, but not all KV and slots are free");
  return fleet.stop(Unfinished::none);
}

}  // namespace supernode::serving
