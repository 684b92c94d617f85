#include "runtime/serving/modelled_config.hpp"

#include <numeric>
#include <stdexcept>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/text.hpp"

namespace supernode::serving {

void describe(OptionTable& t, ModelledConfig& c) {
  t.add(
       "modelled", "microbatches", c.microbatches,
       "microbatches of a step with --compute shape: 1, 2, or 0: 2 for prefill, for decode the faster of both, step by "
       "step; serving.microbatches where a model computes")
      .range(0, 2);
  t.add("modelled", "mtp", c.mtp,
        "decode steps of --compute shape try a speculative token; serving.mtp where a model computes");
  t.add("modelled", "acceptance", c.acceptance, "share of the speculative tokens that are kept").range(0, 1);
  t.add("modelled", "expert_load", c.expert_load,
        "how experts are used with --compute shape: even, zipf:ALPHA, or a file of recorded counts");
  t.add("modelled", "drift", c.drift, "relative deviation of a slot's load from what it was placed for").range(0, 10);
  t.add("modelled", "request_spread", c.request_spread,
        "relative deviation of an expert's share from request to request")
      .range(0, 10);
  t.add("modelled", "experts", c.experts,
        "routed experts of a layer with --compute shape, for deployments scaled down; 0: the model's")
      .range(0, 65536);
  t.add("modelled", "decode_shared_dies", c.decode_shared_dies,
        "dies of a decode instance that hold nothing but the shared experts")
      .range(0, 65536);
  t.add("modelled", "decode_redundant", c.decode_redundant, "extra copies of routed experts in a decode instance")
      .range(0, 65536);
  t.add("modelled", "prefill_redundant", c.prefill_redundant, "extra copies of routed experts in a prefill instance")
      .range(0, 65536);
  t.add("modelled", "pool_network", c.pool_network, "what carries the pool on the modelled machine")
      .choices({"ub", "vpc"});
  t.add("modelled", "pool_gb", c.pool_gb, "context blocks that a cache rank holds, 1e9 B; 0: the DRAM of a node")
      .range(0, 1e9);
}

emulation::ExpertLoad expert_load(const ModelledConfig& config, int experts) {
  emulation::ExpertLoad load;
  const auto parts = split(config.expert_load, ':');
  if (parts[0] == "zipf") {
    const std::optional<double> alpha = parts.size() == 2 ? parse_number<double>(parts[1]) : std::nullopt;
    if (!alpha || !(*alpha >= 0) || *alpha > 10)
      throw UsageError(
          fmt::format("modelled.expert_load: '{}' is not zipf:ALPHA with ALPHA in [0, 10]", config.expert_load));
    load = emulation::zipf_load(experts, *alpha);
  } else if (config.expert_load != "even") {
    load = emulation::parse_expert_load(read_file(config.expert_load), config.expert_load);
    for (const auto& layer : load.layers)
      if (static_cast<int>(layer.size()) != experts)
        throw UsageError(fmt::format("modelled.expert_load: {} has {} experts in a layer, the model {}",
                                     config.expert_load, layer.size(), experts));
  }
  load.drift = config.drift;
  load.request_spread = config.request_spread;
  return load;
}

emulation::StepSetup step_setup(const ModelledConfig& config, const ServingConfig& serving, emulation::Stage stage) {
  const bool decode = stage == emulation::Stage::decode;
  emulation::StepSetup setup;
  setup.stage = stage;
  setup.layout = decode ? emulation::ExpertLayout{.dies = serving.decode_dies,
                                                  .shared_dies = config.decode_shared_dies,
                                                  .redundant = config.decode_redundant}
                        : emulation::ExpertLayout{.dies = serving.prefill_dies, .redundant = config.prefill_redundant};
  setup.mtp = decode && config.mtp;
  setup.joins_microbatches = decode && config.microbatches == 0;
  setup.network = config.pool_network == "ub" ? emulation::PoolNetwork::fabric : emulation::PoolNetwork::vpc;
  setup.block_tokens = serving.context_block_tokens;
  return setup;
}

std::vector<int> machine_dies(const ServingConfig& serving, emulation::Stage stage, int instance) {
  const bool decode = stage == emulation::Stage::decode;
  const int dies = decode ? serving.decode_dies : serving.prefill_dies;
  const int first = decode ? serving.prefill_instances * serving.prefill_dies : 0;
  std::vector<int> all(static_cast<std::size_t>(dies));
  std::iota(all.begin(), all.end(), first + instance * dies);
  return all;
}

void check_deployment(const ModelledConfig& config, const ServingConfig& serving, const emulation::Machine& machine,
                      const emulation::ModelShape& model) {
  const int dies = serving.prefill_instances * serving.prefill_dies + serving.decode_instances * serving.decode_dies;
  if (dies > machine.dies())
    throw UsageError(fmt::format("the deployment has {} dies, {} has {}", dies, machine.source, machine.dies()));
  if (serving.cache_ranks > machine.nodes)
    throw UsageError(fmt::format("serving.cache_ranks: {} hosts, {} has {} nodes", serving.cache_ranks, machine.source,
                                 machine.nodes));
  for (const emulation::Stage stage : {emulation::Stage::prefill, emulation::Stage::decode}) {
    try {
      step_setup(config, serving, stage).layout.check(model);
    } catch (const std::invalid_argument& error) {
      throw UsageError(
          fmt::format("a {} instance: {}", stage == emulation::Stage::decode ? "decode" : "prefill", error.what()));
    }
  }
}

}  // namespace supernode::serving
