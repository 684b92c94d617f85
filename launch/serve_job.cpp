#include "launch/serve_job.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "launch/serve_results.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/serving/load/comparison.hpp"

namespace supernode::launch {

using Kind = Variation::Kind;

namespace {

/// Names of the first failed request; one line says enough.
void complain_of_failures(const serving::ServeOutcome& outcome, const Variation& run) {
  for (const serving::ServedRequest& served : outcome.requests) {
    if (served.ended.why != serving::EndReason::failed) continue;
    const std::string where = run.kind == Kind::as_configured ? "" : fmt::format("run {}: ", run.folder());
    log(LogLevel::error, "{}request {} failed: {}", where, served.request->id, served.ended.detail);
    return;
  }
}

/// Options of a run whose every draw is from another seed.
serving::ServeOptions with_seed_offset(serving::ServeOptions options, std::uint64_t offset) {
  if (!options.modelled) return options;
  options.modelled->seed += offset;
  if (options.modelled->steady) options.modelled->steady->seed += offset;
  return options;
}

}  // namespace

ServeJob::ServeJob(std::vector<Variation> runs, ServeJobOptions options, MakeRequests make_requests)
    : runs_(std::move(runs)), options_(std::move(options)), make_requests_(std::move(make_requests)) {}

ServeJob::Served ServeJob::serve_once(serving::Deployment& deployment, const Communicator& world, const Variation& run,
                                      int repeat) const {
  const auto offset = static_cast<std::uint64_t>(repeat);
  std::vector<serving::Request> requests;
  on_root(world, [&] {
    if (make_requests_) requests = make_requests_({.seed_offset = offset, .load_factor = run.load_factor});
  });
  serving::ServeOptions options = with_seed_offset(run.options, offset);
  // What is written while a run goes on is of one run.
  const bool written = run.kind == Kind::as_configured && repeat == 0;
  StepOutputs* const step_outputs = written ? options_.step_outputs : nullptr;
  if (!written) {
    options.on_end = {};
    if (options.modelled) options.modelled->steps.reset();
  }
  const serving::ServeOutcome outcome =
      deployment.serve(options, std::move(requests), step_outputs ? step_outputs->log() : nullptr);
  if (step_outputs) on_root(world, [&] { step_outputs->close(outcome.requests, outcome.series); });
  Served served;
  if (world.rank() != 0) return served;
  served.results = serving::serving_results(outcome.requests, outcome.pool, options_.metrics,
                                            describe_run(options, outcome, options_.dies_per_npu));
  const std::string folder = run.folder() + (options_.repeats > 1 ? fmt::format("repeats/{}/", repeat) : std::string());
  served.samples.push_back(request_samples(outcome.requests, folder));
  for (Samples& series : series_samples(outcome.series, folder)) served.samples.push_back(std::move(series));
  served.all_served = served.results["failed"] == 0;
  complain_of_failures(outcome, run);
  return served;
}

JobOutcome ServeJob::serve(const Communicator& world) {
  serving::Deployment deployment(world);
  std::vector<std::vector<Served>> served(runs_.size());
  for (int repeat = 0; repeat < options_.repeats; ++repeat)
    for (std::size_t run = 0; run < runs_.size(); ++run)
      served[run].push_back(serve_once(deployment, world, runs_[run], repeat));
  JobOutcome outcome;
  if (world.rank() == 0) outcome = put_together(std::move(served));
  outcome.all_served = world.max(static_cast<long long>(!outcome.all_served)) == 0;
  return outcome;
}

JobOutcome ServeJob::put_together(std::vector<std::vector<Served>> served) const {
  JobOutcome outcome;
  Json configured;
  std::vector<serving::NamedResults> without;
  std::vector<serving::LoadPoint> points;
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    const Variation& run = runs_[i];
    std::vector<Json> repeats;
    for (Served& once : served[i]) {
      repeats.push_back(std::move(once.results));
      std::move(once.samples.begin(), once.samples.end(), std::back_inserter(outcome.samples));
      outcome.all_served = outcome.all_served && once.all_served;
    }
    if (repeats.size() > 1) outcome.samples.push_back(repeat_samples(repeats, run.folder()));
    Json results = serving::combine_repeats(std::move(repeats));
    if (run.kind != Kind::without) points.push_back({run.load_factor, results});
    if (run.kind == Kind::without) without.push_back({run.name, std::move(results)});
    if (run.kind == Kind::as_configured) configured = std::move(results);
  }
  const std::string end = fmt::format("{:=^60}\n", "");
  outcome.text = serving::serving_text(configured, options_.metrics) + serving::intervals_text(configured);
  outcome.results = configured;
  if (!without.empty()) {
    outcome.results["ablation"] = serving::ablation_json(configured, without);
    outcome.text += serving::ablation_text(configured, outcome.results["ablation"]) + end;
  }
  if (options_.peaks) {
    std::sort(points.begin(), points.end(), [](const auto& a, const auto& b) { return a.factor < b.factor; });
    outcome.results["peaks"] = serving::peaks_json(points);
    outcome.text += serving::peaks_text(outcome.results["peaks"]) + end;
  }
  return outcome;
}

}  // namespace supernode::launch
