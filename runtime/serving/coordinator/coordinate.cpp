#include "runtime/serving/coordinator/coordinate.hpp"

#include "runtime/core/error.hpp"

namespace supernode::serving {

WorkerStatistics coordinate(Scheduler& scheduler, Fleet& fleet) {
  // That every request has ended is not enough: a die without a request in the last batch still owes its empty report.
  while (!fleet.quiet()) {
    const Event event = fleet.next();
    for (const Command& command : scheduler.handle(event)) fleet.perform(command, event.time);
  }
  if (!scheduler.idle()) throw EnvironmentError("requests wait for a report that nobody owes");
  return fleet.stop();
}

}  // namespace supernode::serving
