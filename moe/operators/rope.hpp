#pragma once
// Rotary position embedding on interleaved pairs (x[2i], x[2i+1]), with YaRN's blended frequencies.

#include <span>
#include <vector>

#include "moe/model_config.hpp"

namespace supernode::moe {

/// Pure; formulas in README.md.
class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  int half() const { return static_cast<int>(frequencies_.size()); }  ///< pairs: rope_dim / 2
  /// cos and sin (already scaled by YaRN's mscale ratio) of `position` for each pair; both of size half().
  void angles(int position, std::span<float> cosines, std::span<float> sines) const;
  /// What attention scores are multiplied with: 1 / sqrt(qk_dim), times mscale_all_dim's factor squared under YaRN.
  float softmax_scale() const { return softmax_scale_; }

 private:
  std::vector<double> frequencies_;
  double magnitude_ = 1;
  float softmax_scale_ = 1;
};

/// Rotates `x` [2 * cosines.size()] in place.
void rotate(float* x, std::span<const float> cosines, std::span<const float> sines);

}  // namespace supernode::moe
