#pragma once
// The coordinator's end of what the first dies of instances tell of their steps: parts come in, whole reports go to the
// log of the run.

#include <cstddef>
#include <map>
#include <span>
#include <vector>

#include "runtime/serving/record/step_log.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {

class StepIntake {
 public:
  /// Both outlive it. @param log null: no report is wanted, and each is refused
  StepIntake(const ServingConfig& config, StepLog* log) : config_(config), log_(log) {}

  /// A part of a report, from `rank`. A report is due before what the rank reports of its step itself, so that there is
  /// at most one for each instance.
  /// @throws EnvironmentError naming the rank when the message is malformed, not wanted, or not of a first die; and as
  /// the log does.
  void take(int rank, std::span<const std::byte> message);

 private:
  struct Partial {
    std::vector<std::byte> bytes;
    std::uint64_t left = 0;
  };

  const ServingConfig& config_;
  StepLog* const log_;
  std::map<int, Partial> partial_;  ///< [rank]
};

}  // namespace supernode::serving
