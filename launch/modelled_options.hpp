#pragma once
// The options of `serve` that choose a modelled machine, and what they come to.

#include <optional>
#include <string>

#include "moe/model_config.hpp"
#include "runtime/core/options.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::launch {

class ModelledOptions {
 public:
  void describe(OptionTable& table);

  /// A machine is named: the run is on its clock.
  bool chosen() const { return machine_ != "wall"; }
  /// No model computes, so its weights need not be there.
  bool without_weights() const { return compute_ == "shape"; }
  /// Requests come from a closed loop instead of a trace.
  bool steady() const { return workload_.starts_with("steady"); }
  /// Lengths and prefixes of requests are drawn instead of read from a trace.
  bool generated() const { return workload_ == "generated"; }

  /// @param model of the checkpoint @param dtype of its matrices @param seed of all that is drawn
  /// @throws UsageError naming the option, for a machine file that is wrong, and for a deployment that does not fit it.
  /// @param serving gets the batch limits of a steady load
  std::optional<serving::ModelledRun> make(serving::ServingConfig& serving, const moe::ModelConfig& model,
                                           const std::string& dtype, std::uint64_t seed) const;

  /// What the uniform cost functions (`validate`) say of a step of the steady load, ms: one die stands for all.
  static double formula_step_ms(const serving::ModelledRun& run, const serving::ServingConfig& serving,
                                double requests_per_die);

 private:
  serving::SteadyOptions steady_options(const emulation::Machine& machine, serving::ServingConfig& serving) const;

  std::string machine_ = "wall", compute_ = "real", payload_ = "auto", workload_ = "trace";
  double batch_per_npu_ = 96;
  int prompt_tokens_ = 4096, output_tokens_ = 1024, steps_ = 40;
  serving::ModelledConfig config_;
};

}  // namespace supernode::launch
