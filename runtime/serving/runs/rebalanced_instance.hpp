#pragma once
// An instance whose experts are rebalanced, where a run asks for that.

#include <functional>
#include <memory>

#include "runtime/core/mpi/mailbox.hpp"
#include "runtime/serving/server.hpp"
#include "runtime/serving/workers/rebalancing_engine.hpp"

namespace supernode::serving {

class RebalancedInstance {
 public:
  /// Collective over `instance`. @param engine borrowed @param deadline_s longest wait for another die
  RebalancedInstance(const Communicator& instance, StepEngine& engine, std::unique_ptr<MovableExperts> experts,
                     const RebalancingOptions& options, double deadline_s);

  RebalancingEngine& engine() { return engine_; }

 private:
  Communicator dies_;
  Mailbox box_;
  RebalancingEngine engine_;
};

/// Null where experts stay where they are: rebalancing is off, or the instance has one die only. Collective over
/// `instance`. @param make_experts those of what does the work behind `engine`
std::unique_ptr<RebalancedInstance> rebalanced_instance(
    const Communicator& instance, const ServeOptions& options, StepEngine& engine,
    const std::function<std::unique_ptr<MovableExperts>()>& make_experts);

/// @throws UsageError, on all ranks or none, when the run asks for rebalancing and a model that computes does not allow
/// it: experts that do not divide over the dies of an instance, or that are packed in different ways. Collective over
/// `world`. @param model null on ranks without one
void check_rebalancing(const Communicator& world, const ServeOptions& options, moe::Transformer* model, int dies);

}  // namespace supernode::serving
