#pragma once
// Where the reports of steps go: into a record of the run, a trace of it, a test.

#include "runtime/serving/record/instance_id.hpp"
#include "runtime/serving/record/step_report.hpp"

namespace supernode::serving {

class StepLog {
 public:
  virtual ~StepLog() = default;
  /// A step has been priced. Those of an instance come in order; how instances are interleaved depends on the hosts.
  virtual void on_step(const InstanceId& instance, const StepReport& report) = 0;
};

}  // namespace supernode::serving
