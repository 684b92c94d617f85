#pragma once
// The options of `serve` that keep the steps of a run on the modelled clock: a record, and a trace.

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "launch/command.hpp"
#include "runtime/core/options.hpp"
#include "runtime/serving/record/step_log.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::launch {

class StepOutputs {
 public:
  StepOutputs();
  ~StepOutputs();
  void describe(OptionTable& table);

  /// Tells the run what is wanted of its steps. On all ranks. @throws UsageError without a machine
  void ask(std::optional<serving::ModelledRun>& run) const;
  /// Opens the files; on rank 0, before the run. @throws UsageError for two files of one name, and as NewFile
  void open(const serving::ServeOptions& options, const RunOptions& run);
  /// The log of steps; null where none is wanted, or open() was not called.
  serving::StepLog* log() const;
  /// Completes the files and gives them their names; on rank 0, after the run. @throws EnvironmentError
  void close(std::span<const serving::ServedRequest> requests, std::span<const serving::SeriesTable> series);

 private:
  bool wanted() const { return !record_.empty() || !trace_.empty(); }

  std::string record_, trace_;
  std::int64_t traced_step_ = 3;
  class Files;
  std::unique_ptr<Files> files_;
};

}  // namespace supernode::launch
