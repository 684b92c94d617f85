#pragma once
// A run on a modelled machine: section [modelled], and what follows from it for the instances of a deployment.

#include <string>

#include "runtime/core/options.hpp"
#include "runtime/emulation/step_time.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {

/// What computes the tokens.
enum class Compute {
  real,   ///< the model
  shape,  ///< nothing: routing is drawn, tokens are a function of request and position
};

/// Whether what moves has its bytes.
enum class Payload {
  carried,  ///< rows, KV and context blocks, of the emulated machine's sizes where nothing computes
  elided,   ///< messages without them, and cache ranks that hold nothing
};

struct ModelledConfig {
  /// Of a step, 1 or 2; 0: 2 for prefill, and for decode the faster of both, step by step. Where a model computes,
  /// ServingConfig's.
  int microbatches = 2;
  bool mtp = true;  ///< a speculative token for each request in decode; where a model computes, ServingConfig's
  double acceptance = 0.7;
  std::string expert_load = "even";  ///< even, zipf:ALPHA, or a file of recorded counts
  double drift = 0.28;               ///< as emulation::ExpertLoad
  double request_spread = 1.2;
  int experts = 0;             ///< routed experts of a layer; 0: the model's. Fewer scale a deployment down
  int decode_shared_dies = 0;  ///< dies of a decode instance that hold nothing but shared experts
  int decode_redundant = 0;    ///< extra copies of routed experts in an instance
  int prefill_redundant = 0;
  std::string pool_network = "ub";  ///< what carries the pool: ub or vpc
  double pool_gb = 0;               ///< blocks that a cache rank holds, 1e9 B; 0: the DRAM of a node
};

void describe(OptionTable& table, ModelledConfig& config);

/// @throws UsageError naming option and value.
emulation::ExpertLoad expert_load(const ModelledConfig& config, int experts);

/// How an instance works in steps. @param stage of the instance
emulation::StepSetup step_setup(const ModelledConfig& config, const ServingConfig& serving, emulation::Stage stage);

/// The dies of the machine that an instance's dies play: prefill instances from die 0 on, then decode instances.
std::vector<int> machine_dies(const ServingConfig& serving, emulation::Stage stage, int instance);

/// @throws UsageError when the machine is too small for the deployment, or the experts do not divide over its dies.
void check_deployment(const ModelledConfig& config, const ServingConfig& serving, const emulation::Machine& machine,
                      const emulation::ModelShape& model);

}  // namespace supernode::serving
