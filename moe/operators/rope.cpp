#include "moe/operators/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace supernode::moe {
namespace {

/// YaRN's attention temperature for a context `factor` times longer.
double magnitude_scale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; }

}  // namespace

Rope::Rope(const ModelConfig& config) : frequencies_(static_cast<std::size_t>(config.rope_dim / 2)) {
  const double dim = config.rope_dim;
  for (std::size_t i = 0; i < frequencies_.size(); ++i)
    frequencies_[i] = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / dim);
  double scale = 1 / std::sqrt(static_cast<double>(config.qk_dim()));

  if (config.yarn) {
    const YarnConfig& yarn = *config.yarn;
    // The pair that makes `rotations` turns within the original context, as a real-valued index.
    const auto pair_of = [&](double rotations) {
      return dim * std::log(yarn.original_max_positions / (rotations * 2 * std::numbers::pi)) /
             (2 * std::log(config.rope_theta));
    };
    const double low = std::max(std::floor(pair_of(yarn.beta_fast)), 0.0);
    double high = std::min(std::ceil(pair_of(yarn.beta_slow)), dim - 1);
    if (high == low) high += 0.001;
    for (std::size_t i = 0; i < frequencies_.size(); ++i) {
      const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      frequencies_[i] *= (1 - stretched) + stretched / yarn.factor;
    }
    magnitude_ = magnitude_scale(yarn.factor, yarn.mscale) / magnitude_scale(yarn.factor, yarn.mscale_all_dim);
    if (yarn.mscale_all_dim != 0) {
      const double all = magnitude_scale(yarn.factor, yarn.mscale_all_dim);
      scale *= all * all;
    }
  }
  softmax_scale_ = static_cast<float>(scale);
}

void Rope::angles(int position, std::span<float> cosines, std::span<float> sines) const {
  for (std::size_t i = 0; i < frequencies_.size(); ++i) {
    const double angle = position * frequencies_[i];
    cosines[i] = static_cast<float>(std::cos(angle) * magnitude_);
    sines[i] = static_cast<float>(std::sin(angle) * magnitude_);
  }
}

void rotate(float* x, std::span<const float> cosines, std::span<const float> sines) {
  for (std::size_t i = 0; i < cosines.size(); ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cosines[i] - b * sines[i];
    x[2 * i + 1] = a * sines[i] + b * cosines[i];
  }
}

}  // namespace supernode::moe
