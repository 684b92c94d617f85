#include "runtime/serving/workers/worker.hpp"
#include "runtime/serving/workers/worker_inbox.hpp"

namespace supernode::serving {

StepOutcome step_together(StepEngine& engine, std::span<const StepWork> works, RunTime start) {
  try {
    return engine.step(works, start);
  } catch (const TimeoutError& error) {
    throw InstanceSilent(error.what());
  }
}

void run_lost_die(const WorkerContext& context) {
  WorkerInbox inbox(context);
  while (!std::holds_alternative<StopOrder>(inbox.wait([] { return false; }).what)) {
  }
  inbox.report_stopped({});
}

}  // namespace supernode::serving
