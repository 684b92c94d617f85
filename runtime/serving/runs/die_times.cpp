#include "runtime/serving/runs/die_times.hpp"

#include "runtime/serving/roles.hpp"

namespace supernode::serving {

std::vector<DieSteps> die_steps(const ServingConfig& config, const WorkerStatistics& counts) {
  std::vector<DieSteps> dies;
  for (const auto& [rank, times] : counts.step_times) {
    const Part part = part_of(config, rank);
    dies.push_back({rank, std::string(to_string(part.role)), part.instance, part.die, times});
  }
  return dies;
}

}  // namespace supernode::serving
