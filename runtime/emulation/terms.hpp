#pragma once
// A duration with the parts that make it up, for `--explain` and for reports.

#include <string>
#include <utility>
#include <vector>

#include "runtime/core/clock.hpp"

namespace supernode::emulation {

/// Named parts of a duration, in order; their sum is the whole.
class Terms {
 public:
  void add(std::string name, ModelTime time) { parts_.emplace_back(std::move(name), time); }
  ModelTime total() const {
    ModelTime sum;
    for (const auto& part : parts_) sum += part.second;
    return sum;
  }
  const std::vector<std::pair<std::string, ModelTime>>& parts() const { return parts_; }

 private:
  std::vector<std::pair<std::string, ModelTime>> parts_;
};

}  // namespace supernode::emulation
