#pragma once
// What happened over the time of a run: queue, batches, KV, steps, tokens, hits and misses. Pure, of bounded memory.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/serving/load/run_time.hpp"
#include "runtime/serving/load/time_bins.hpp"

namespace supernode::serving {

/// What the coordinator sees of its instances at one moment.
struct LoadSnapshot {
  struct Instance {
    int requests = 0;            ///< in its batch
    std::int64_t kv_tokens = 0;  ///< room that requests have on its dies; decode only
    std::uint64_t steps = 0;     ///< iterations or batches that have ended
    RunSpan last_step{};         ///< how long the last one took
    int last_batch = 0;          ///< requests on the fullest die in it; decode only, as what follows
    double last_tokens = 0;      ///< tokens that it gave for a request
  };
  std::uint64_t changes = 0;  ///< how often it has changed; 0: never looked
  std::size_t queued = 0;
  std::vector<Instance> prefill, decode;

  std::size_t running() const;
};

/// A table of figures over time.
struct SeriesTable {
  std::string name;  ///< "decode/step_ms"
  std::vector<double> values;
  std::vector<std::size_t> shape;  ///< [bins], or [bins, instances]
};

/// Fed in order of time. Its tables:
///   time_s             [bins] when a bin begins; all bins are equally wide, the last one counts as a whole one
///   queued, queued_max [bins] mean over the bin's time, and the most
///   arrived, completed, failed, output_tokens, hit_tokens, computed_tokens [bins] how many in the bin; hits and
///                      computed tokens of prompts count when their prefill ends
///   misses/REASON      [bins] blocks, where the coordinator knows
///   prefill/X, decode/X [bins, instances] with X: requests and kv_tokens (mean over time), steps (that ended in the
///                      bin), step_ms (their mean, 0 without one), step_ms_max
class RunSeries {
 public:
  explicit RunSeries(std::size_t most_bins = 2048, RunSpan narrowest = std::chrono::milliseconds(1));

  void arrived(RunTime at) { bins_.put(arrived_, at, 1); }
  void token(RunTime at) { bins_.put(output_, at, 1); }
  void prefilled(RunTime at, int hit_tokens, int computed_tokens);
  void ended(RunTime at, bool completed) { bins_.put(completed ? completed_ : failed_, at, 1); }
  /// The state from `at` on. Its instances are always the same ones; of steps that ended since the last call the last
  /// one's time counts for all. O(instances).
  void state(RunTime at, const LoadSnapshot& now);
  /// Blocks missed since the begin of the run.
  void misses(RunTime at, const std::map<std::string, std::uint64_t>& so_far);

  std::vector<SeriesTable> tables() const;

 private:
  struct InstanceColumns {
    std::size_t requests, kv_tokens, steps, step_s, longest_s;
  };
  std::vector<InstanceColumns> add_instances(std::size_t count);
  void hold(const std::vector<InstanceColumns>& columns, const std::vector<LoadSnapshot::Instance>& level, RunTime to);
  void count_steps(const std::vector<InstanceColumns>& columns, const std::vector<LoadSnapshot::Instance>& before,
                   const std::vector<LoadSnapshot::Instance>& now, RunTime at);
  void add_tables(std::vector<SeriesTable>& tables, const std::string& role,
                  const std::vector<InstanceColumns>& columns) const;

  TimeBins bins_;
  std::size_t arrived_, completed_, failed_, output_, hit_, computed_, queued_, queued_max_;
  std::vector<InstanceColumns> prefill_, decode_;
  std::map<std::string, std::size_t> miss_columns_;
  std::map<std::string, std::uint64_t> missed_;
  std::optional<LoadSnapshot> level_;  ///< since `since_`
  RunTime since_{};
};

}  // namespace supernode::serving
