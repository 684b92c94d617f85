#pragma once
// Draws from a discrete distribution in constant time (Walker's alias method).

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace supernode::emulation {

class AliasTable {
 public:
  /// @param weights >= 0, at least one above; fewer than 2^32 of them. O(weights)
  explicit AliasTable(std::span<const double> weights);

  std::size_t size() const noexcept { return keep_.size(); }  ///< how many weights

  /// The index that random bits stand for: i for weights[i] / sum of all 2^32 values, up to rounding. Without a branch,
  /// which nobody could predict.
  std::uint32_t operator()(std::uint32_t bits) const noexcept {
    const std::uint64_t scaled = std::uint64_t{bits} * keep_.size();
    const std::size_t cell = scaled >> 32;
    return targets_[2 * cell + static_cast<std::size_t>(static_cast<std::uint32_t>(scaled) >= keep_[cell])];
  }

 private:
  std::vector<std::uint32_t> keep_;     ///< [weights] a draw that falls on i is i in keep_[i] / 2^32 of all cases,
  std::vector<std::uint32_t> targets_;  ///< [weights][2] and else the second of these; the first is i
};

}  // namespace supernode::emulation
