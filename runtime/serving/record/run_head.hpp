#pragma once
// What a record says of its run before the first step: enough to price the steps again. Pure.

#include <string>
#include <vector>

#include "runtime/core/json.hpp"
#include "runtime/emulation/step_time.hpp"
#include "runtime/serving/record/step_log.hpp"

namespace supernode::serving {

struct RunHead {
  std::string program;  ///< its version
  emulation::Machine machine;
  emulation::ModelShape model;
  struct Instance {
    InstanceId id;
    emulation::StepSetup setup;
    std::vector<int> dies;  ///< of the machine
  };
  std::vector<Instance> instances;  ///< prefill instances, then decode instances
};

Json to_json(const emulation::ModelShape& model);
Json to_json(const emulation::StepSetup& setup, const std::vector<int>& dies);
/// @param source the file, and where in it: for messages. @throws UsageError naming a key that is missing or of another
/// type.
emulation::ModelShape model_from_json(const Json& json, const std::string& source);
/// @param instance gets setup and dies; its stage is known
void instance_from_json(const Json& json, const std::string& source, RunHead::Instance& instance);

}  // namespace supernode::serving
