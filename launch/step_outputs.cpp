#include "launch/step_outputs.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/provenance.hpp"
#include "runtime/serving/record/record_file.hpp"
#include "runtime/serving/record/trace_file.hpp"

namespace supernode::launch {
namespace {

/// What the record says of the run.
serving::RunHead head_of(const serving::ServeOptions& options) {
  const serving::ModelledRun& run = *options.modelled;
  const serving::ServingConfig& serving = options.serving;
  serving::RunHead head{version(), run.machine, run.model, {}};
  const auto add = [&](emulation::Stage stage, int instances) {
    for (int index = 0; index < instances; ++index)
      head.instances.push_back({{stage, index},
                                serving::step_setup(run.config, serving, stage),
                                serving::machine_dies(serving, stage, index)});
  };
  add(emulation::Stage::prefill, serving.prefill_instances);
  add(emulation::Stage::decode, serving.decode_instances);
  return head;
}

}  // namespace

/// The open files of a run.
class StepOutputs::Files : public serving::StepLog {
 public:
  Files(const serving::RunHead& head, const std::string& record, const std::string& trace, IfExists if_exists) {
    if (!record.empty()) record_.emplace(record, if_exists, head);
    if (trace.empty()) return;
    std::vector<serving::TraceFile::Instance> instances;
    for (const serving::RunHead::Instance& instance : head.instances)
      instances.push_back({instance.id, static_cast<int>(instance.dies.size())});
    trace_.emplace(trace, if_exists, instances);
  }

  void on_step(const serving::InstanceId& instance, const serving::StepReport& report) override {
    if (record_) record_->on_step(instance, report);
    if (trace_) trace_->on_step(instance, report);
  }
  void close(std::span<const serving::ServedRequest> requests, std::span<const serving::SeriesTable> series) {
    if (record_) record_->close();
    if (!trace_) return;
    trace_->add_series(series);
    trace_->add_requests(requests);
    trace_->close();
  }
  bool lacks_tasks() const { return trace_ && !trace_->has_tasks(); }

 private:
  std::optional<serving::RecordWriter> record_;
  std::optional<serving::TraceFile> trace_;
};

StepOutputs::StepOutputs() = default;
StepOutputs::~StepOutputs() = default;

void StepOutputs::describe(OptionTable& t) {
  t.add("serve", "record", record_,
        "with a machine: keep what each die did in each step in this new HDF5 file, for `supernode replay`");
  t.add("serve", "trace_out", trace_,
        "with a machine: a trace for Perfetto or chrome://tracing, as this new JSON file");
  t.add("serve", "trace_step", traced_step_,
        "the step of each instance, from 0, of which the trace has the layers' tasks")
      .range(0, 1e9);
}

void StepOutputs::ask(std::optional<serving::ModelledRun>& run) const {
  if (!wanted()) return;
  if (!run)
    throw UsageError(fmt::format("{} needs --machine: on the wall clock no step is priced",
                                 record_.empty() ? "--trace-out" : "--record"));
  run->steps = serving::StepReports{.records = !record_.empty(), .traced_step = trace_.empty() ? -1 : traced_step_};
}

void StepOutputs::open(const serving::ServeOptions& options, const RunOptions& run) {
  if (!wanted()) return;
  if (record_ == trace_ || record_ == run.output || trace_ == run.output) {
    const std::string& twice = record_ == trace_ || record_ == run.output ? record_ : trace_;
    if (!twice.empty()) throw UsageError(fmt::format("'{}' is named twice as a file to be written", twice));
  }
  files_ = std::make_unique<Files>(head_of(options), record_, trace_, run.if_exists());
}

serving::StepLog* StepOutputs::log() const { return files_.get(); }

void StepOutputs::close(std::span<const serving::ServedRequest> requests,
                        std::span<const serving::SeriesTable> series) {
  if (!files_) return;
  files_->close(requests, series);
  if (files_->lacks_tasks())
    supernode::log(LogLevel::warning, "{}: no instance came to step {}, so the trace has no layers (--trace-step)",
                   trace_, traced_step_);
  files_.reset();
}

}  // namespace supernode::launch
