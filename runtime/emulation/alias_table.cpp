#include "runtime/emulation/alias_table.hpp"

#include <numeric>

#include "runtime/core/error.hpp"

namespace supernode::emulation {

AliasTable::AliasTable(std::span<const double> weights) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  expect(total > 0, "a distribution needs a weight above 0");
  // Every cell holds the mean weight: its own, filled up by one larger one.
  std::vector<double> left;
  std::vector<std::uint32_t> small, large;
  for (std::uint32_t i = 0; i < weights.size(); ++i) {
    left.push_back(weights[i] * static_cast<double>(weights.size()) / total);
    (left.back() < 1 ? small : large).push_back(i);
    keep_.push_back(~std::uint32_t{0});
    targets_.insert(targets_.end(), {i, i});
  }
  while (!small.empty() && !large.empty()) {
    const std::uint32_t own = small.back(), filler = large.back();
    small.pop_back();
    keep_[own] = static_cast<std::uint32_t>(left[own] * 0x1.0p32);
    targets_[2 * own + 1] = filler;
    left[filler] -= 1 - left[own];
    if (left[filler] >= 1) continue;
    large.pop_back();
    small.push_back(filler);
  }
}

}  // namespace supernode::emulation
