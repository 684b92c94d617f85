#pragma once
// Where the reports of steps go: into a record of the run, a trace of it, a test.

#include <string>

#include <fmt/format.h>

#include "runtime/serving/record/step_report.hpp"

namespace supernode::serving {

/// An instance of a deployment; each stage counts its own from 0.
struct InstanceId {
  emulation::Stage stage{};
  int index = 0;
  friend auto operator<=>(const InstanceId&, const InstanceId&) = default;
};

inline const char* name_of(emulation::Stage stage) { return stage == emulation::Stage::decode ? "decode" : "prefill"; }
/// "decode 0"
inline std::string to_string(const InstanceId& instance) {
  return fmt::format("{} {}", name_of(instance.stage), instance.index);
}

class StepLog {
 public:
  virtual ~StepLog() = default;
  /// A step has been priced. Those of an instance come in order; how instances are interleaved depends on the hosts.
  virtual void on_step(const InstanceId& instance, const StepReport& report) = 0;
};

}  // namespace supernode::serving
