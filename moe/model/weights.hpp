#pragma once
// All weights of a model that a rank holds.

#include <memory>
#include <vector>

#include "moe/model/layer.hpp"
#include "moe/operators/rope.hpp"
#include "moe/transformer.hpp"

namespace supernode::moe {

/// Shared weights and this rank's experts. They do not change in a step, so that any number of slices may be under
/// way over them; between steps experts may change places (expert_places.hpp).
struct Weights {
  /// @throws UsageError as Checkpoint::read.
  Weights(Checkpoint& checkpoint, const TransformerOptions& options, const ExpertRange& mine, Gemm& gemm);

  /// Makes the kernels that slices of up to `rows` rows need, so that none is made later.
  void prepare(int rows, Gemm& gemm) const;

  ModelConfig config;
  Rope rope;
  TokenEmbedding embedding;
  std::vector<float> final_norm;
  PackedMatrix head;
  std::vector<Layer> layers;
  std::unique_ptr<MtpModule> mtp;  ///< null: not there or not wanted
};

}  // namespace supernode::moe
