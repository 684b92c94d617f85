#pragma once
// Factors that move outliers from activations into weights before a model is rounded to int8. Offline.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "moe/checkpoint.hpp"

namespace supernode::moe {

/// Where a product's input comes from a norm, or from rows of another matrix, its channels may be divided by anything
/// if the columns of the product's weights are multiplied by it:
///   input_layernorm            q_a_proj or q_proj, kv_a_proj_with_mqa
///   q_a_layernorm              q_b_proj
///   post_attention_layernorm   gate, and gate_proj and up_proj of the dense unit, or of all experts
///   up_proj                    down_proj of the same unit
///   kv_b_proj (values)         o_proj
/// The factors are s = max|x|^a / max|w|^(1 - a) for each channel, rounded to powers of two: the model they give is the
/// same in f32, to the last bit. For each group a is the one of {no factors, 1/4, 1/2, 3/4} with the least error of the
/// products' results (none unless three tenths are gained), as estimated from the rounding of every weight and from
/// rows of sampled activations (normal values through the norms and matrices before).
class Smoothing {
 public:
  /// Changes nothing.
  Smoothing() = default;
  /// Searches; reads every int8 matrix a few times, one at a time. Local. @throws UsageError as Checkpoint::read.
  explicit Smoothing(Checkpoint& from);

  /// Multiplies the elements of `tensor` [shape] by its factors.
  void apply(const std::string& tensor, std::span<const std::int64_t> shape, std::span<float> values) const;

  /// Estimated squared error of all products with the factors over that without them.
  double error_ratio() const { return error_without_ > 0 ? error_ / error_without_ : 1; }
  int groups() const { return groups_; }      ///< that were searched
  int smoothed() const { return smoothed_; }  ///< of them, that got factors

 private:
  class Search;
  struct Factors {
    std::vector<float> rows, columns;  ///< empty: 1
  };

  std::map<std::string, Factors> factors_;
  double error_ = 0, error_without_ = 0;
  int groups_ = 0, smoothed_ = 0;
};

}  // namespace supernode::moe
