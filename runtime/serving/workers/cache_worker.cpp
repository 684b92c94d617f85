#include "memory_pool/pool.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/log.hpp"
#include "runtime/serving/workers/worker.hpp"
#include "runtime/serving/workers/worker_inbox.hpp"

namespace supernode::serving {

void run_idle_cache_worker(const WorkerContext& context) {
  WorkerInbox inbox(context);
  const Stamped<Order> order = inbox.wait([] { return false; });
  if (!std::holds_alternative<StopOrder>(order.what)) inbox.refuse(order.what);
  inbox.report_stopped({});
}

void run_cache_worker(const WorkerContext& context, const std::vector<Injection>& injections) {
  pool::Pool& pool = *context.pool;
  const double start_s = wall_now().value;
  std::size_t next = 0;
  pool.serve_until_stopped([&] {
    for (; next < injections.size() && wall_now().value - start_s >= injections[next].start_s; ++next) {
      const Injection& injection = injections[next];
      if (injection.rank != context.rank) continue;
      const bool lost = injection.kind == InjectionKind::owner_loss;
      const double seconds = injection.duration_s > 0 ? injection.duration_s : 3 * pool.config().deadline;
      log(LogLevel::warning, "cache rank {} {} for {} s, as injected", context.part.die,
          lost ? "loses its memory and stays silent" : "stays silent", seconds);
      pool.simulate_silence(seconds, lost ? pool::MemoryFate::lost : pool::MemoryFate::kept);
    }
  });
}

}  // namespace supernode::serving
