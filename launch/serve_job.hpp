#pragma once
// Serves all runs of a job, one after the other, and puts their results together.

#include <functional>
#include <string>
#include <vector>

#include "launch/command.hpp"
#include "launch/serve_load.hpp"
#include "launch/serve_variations.hpp"
#include "launch/step_outputs.hpp"
#include "runtime/serving/load/metrics.hpp"

namespace supernode::launch {

/// What a job comes to; on rank 0 only, but for `all_served`.
struct JobOutcome {
  Json results;
  std::string text;
  std::vector<Samples> samples;
  bool all_served = true;  ///< no request failed in any run; agreed
  /// On rank 0: instances were lost, as this line says. Nothing collective can follow.
  std::string lost;
};

struct ServeJobOptions {
  int repeats = 1;     ///< of every run
  bool peaks = false;  ///< results have the runs at factors of the load, beside the one as configured
  serving::MetricsOptions metrics;
  int dies_per_npu = 1;  ///< of the emulated machine
  /// Of the run as configured, its first time; open, and outlives the job. Null: none.
  StepOutputs* step_outputs = nullptr;
};

class ServeJob {
 public:
  /// The requests of a run; called on rank 0 only. Empty for a load that makes its own.
  using MakeRequests = std::function<std::vector<serving::Request>(const RunOfJob&)>;

  /// @param runs, options.repeats equal on all ranks
  ServeJob(std::vector<Variation> runs, ServeJobOptions options, MakeRequests make_requests);

  /// Every run in turn, and that as often as there are repeats, so that what disturbs the hosts for a while disturbs
  /// all runs alike. Repeat r has the seed + r everywhere: it is what a job with that seed would be. Collective.
  /// @throws CheckError on rank 0 when instances are lost and runs are left
  JobOutcome serve(const Communicator& world);

 private:
  /// What is kept of one serving; on rank 0 only.
  struct Served {
    Json results;
    std::vector<Samples> samples;
    bool all_served = true;
    std::string lost;  ///< as in JobOutcome
  };

  /// Serves once: everything else here is repetitions of this. Collective.
  Served serve_once(serving::Deployment& deployment, const Communicator& world, const Variation& run, int repeat) const;
  JobOutcome put_together(std::vector<std::vector<Served>> served) const;

  const std::vector<Variation> runs_;
  const ServeJobOptions options_;
  const MakeRequests make_requests_;
};

}  // namespace supernode::launch
