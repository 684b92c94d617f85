#pragma once
// The dies of an instance beside their steps: what they agree on, and what one of them has for all.

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/deadline_collectives.hpp"

namespace supernode::serving {

/// All but die() and dies() is collective over the instance. @throws InstanceSilent naming the dies that did not come.
class DieGroup {
 public:
  /// Borrows the communicator of the instance.
  DieGroup(const Communicator& instance, double deadline_s) : instance_(instance), deadline_s_(deadline_s) {}

  int die() const { return instance_.rank(); }
  int dies() const { return instance_.size(); }

  /// Each value becomes its largest over the dies.
  void take_largest(std::span<double> values) const;
  /// @param mine what this die has for all, sizes[die()] bytes @param sizes [dies], equal on all
  /// @returns [dies] what each has; valid until the next call
  std::vector<std::span<const std::byte>> gather(std::span<const std::byte> mine, std::span<const std::size_t> sizes);

 private:
  const Communicator& instance_;
  const double deadline_s_;
  std::unique_ptr<FloatExchange> floats_ = std::make_unique<FloatExchange>();
};

}  // namespace supernode::serving
