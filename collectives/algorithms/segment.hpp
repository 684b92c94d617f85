#pragma once
// Where things lie in a rank's segment of HostMemory.

#include <cstddef>
#include <vector>

#include "collectives/algorithms/host_memory.hpp"

namespace supernode::collectives {

/// Flags first, then the *regions* of round set 0, then those of set 1. Regions begin at whole lines.
class Segment {
 public:
  explicit Segment(std::size_t flags) : flags_(flags) {}

  /// Adds a region of `bytes` to each set. Returns its number, from 0.
  std::size_t add_region(std::size_t bytes) {
    begins_.push_back(set_bytes_);
    set_bytes_ += whole_lines(bytes);
    return begins_.size() - 1;
  }

  std::size_t flags() const { return flags_; }
  std::size_t offset(int set, std::size_t region) const {
    return sizeof(Flag) * flags_ + set_bytes_ * static_cast<std::size_t>(set) + begins_[region];
  }
  std::size_t bytes() const { return sizeof(Flag) * flags_ + set_bytes_ * n_round_sets; }

 private:
  std::size_t flags_, set_bytes_ = 0;
  std::vector<std::size_t> begins_;
};

}  // namespace supernode::collectives
