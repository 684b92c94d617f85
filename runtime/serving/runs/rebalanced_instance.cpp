#include "runtime/serving/runs/rebalanced_instance.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/deadline_collectives.hpp"

namespace supernode::serving {

RebalancedInstance::RebalancedInstance(const Communicator& instance, StepEngine& engine,
                                       std::unique_ptr<MovableExperts> experts, const RebalancingOptions& options,
                                       double deadline_s)
    : dies_(instance.duplicate()),
      box_(dies_),
      engine_(engine, std::move(experts), options,
              {.die = dies_.rank(),
               .count = dies_.size(),
               .port = &box_,
               .add_up = [this, deadline_s](
                             std::span<double> values) { add_up(dies_, values, deadline_s, "the counts of experts"); },
               .deadline_s = deadline_s}) {}

std::unique_ptr<RebalancedInstance> rebalanced_instance(
    const Communicator& instance, const ServeOptions& options, StepEngine& engine,
    const std::function<std::unique_ptr<MovableExperts>()>& make_experts) {
  const ServingConfig& config = options.serving;
  if (config.rebalance_interval == 0 || instance.size() < 2) return nullptr;
  const RebalancingOptions wanted{
      .interval = config.rebalance_interval,
      .policy = {.threshold = config.rebalance_threshold, .max_moves = config.rebalance_moves},
      .bytes_per_step = static_cast<std::size_t>(config.rebalance_bytes_per_step.value)};
  // A little less than the coordinator's, which knows only who has not reported.
  return std::make_unique<RebalancedInstance>(instance, engine, make_experts(), wanted, options.deadline_s * 7 / 8);
}

void check_rebalancing(const Communicator& world, const ServeOptions& options, moe::Transformer* model, int dies) {
  if (options.serving.rebalance_interval == 0) return;
  std::string format;
  collectively(world, [&] {
    if (!model || dies < 2) return;
    const int experts = model->config().n_routed_experts;
    if (experts == 0) throw UsageError("serving.rebalance_interval: the model has no routed experts");
    if (experts % dies != 0)
      throw UsageError(fmt::format(
          "serving.rebalance_interval: {} experts do not divide over the {} dies of an instance", experts, dies));
    try {
      format = model->expert_places().format();
    } catch (const UsageError& error) {
      throw UsageError(fmt::format("serving.rebalance_interval: {}", error.what()));
    }
  });
  // Weights travel as they are packed.
  const std::vector<std::string> formats = world.gather(format);
  on_root(world, [&] {
    const std::string* first = nullptr;
    for (const std::string& one : formats) {
      if (one.empty()) continue;
      if (first && one != *first)
        throw UsageError(
            fmt::format("serving.rebalance_interval: ranks pack experts in different ways: {} and {}", *first, one));
      first = &one;
    }
  });
}

}  // namespace supernode::serving
