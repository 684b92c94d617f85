#pragma once
// Which experts a token goes to, from its gate logits.

#include <cstdint>
#include <span>
#include <vector>

#include "moe/model_config.hpp"

namespace supernode::moe {

/// Pure and deterministic: of equal scores the lower expert wins. Keeps scratch, so one object a thread.
class Gate {
 public:
  explicit Gate(const ModelConfig& config);

  /// @param logits [n_routed_experts] of one token
  /// @param bias [n_routed_experts], used for the choice only (noaux_tc); may be empty
  /// @param ids [topk] chosen experts, best first; @param weights [topk] their unbiased scores, normalised if the model
  /// says so and scaled. A NaN logit loses against every number; the ids are distinct and in range whatever the logits.
  void select(std::span<const float> logits, std::span<const float> bias, std::span<std::int32_t> ids,
              std::span<float> weights);

 private:
  void mask_groups();

  int n_experts_, topk_, n_groups_, topk_groups_;
  GateScoring scoring_;
  GateMethod method_;
  bool normalise_;
  float scaling_;
  std::vector<float> scores_, choice_, group_scores_;
  std::vector<int> best_;
};

}  // namespace supernode::moe
