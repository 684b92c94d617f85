#pragma once
// Prices the steps of a record again, on the machine of the record and on another one. The schedule stays as it was
// recorded: the same batches, the same relative starts of the dies of a step. Pure.

#include <string>
#include <utility>
#include <vector>

#include "runtime/serving/record/record_file.hpp"

namespace supernode::serving {

/// A named part of the modelled time, s, on both machines.
struct ReplayedTerm {
  std::string name;
  double recorded_s = 0, replayed_s = 0;
};

/// What steps cost on both machines; of one instance, or of all of a stage.
struct ReplayedSteps {
  std::vector<double> recorded_ms, replayed_ms;  ///< of each step, from the first start to the last end
  std::vector<ReplayedTerm> terms;  ///< of the dies that ended last, as emulation::StepTiming; in order of appearance
  std::vector<ReplayedTerm> exchange;  ///< what dispatch and combine of `terms` were made of
  std::int64_t other_ends = 0;         ///< ends of dies that this program prices otherwise than the record says

  ReplayedSteps& operator+=(const ReplayedSteps& other);
};

struct ReplayedInstance {
  InstanceId id;
  int dies = 0;
  ReplayedSteps steps;
};

/// @param machine the other one; equal to that of the record, every end must be the recorded one
/// @throws UsageError naming the file, instance and step of a damaged record, or a machine with too few dies.
/// O(steps x price of a step), twice.
std::vector<ReplayedInstance> replay(RecordReader& record, const emulation::Machine& machine);

}  // namespace supernode::serving
