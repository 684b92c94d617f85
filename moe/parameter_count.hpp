#pragma once
// How many weights a model has, by what becomes of them when ranks are added and how they are held.

#include <array>
#include <string_view>

#include "moe/compute_type.hpp"
#include "moe/model_config.hpp"

namespace supernode::moe {

/// Every rank holds all of a model's parts but `experts`, of which it holds its share.
enum class ModelPart { attention, dense_layers, embedding_and_head, experts, gate, norms_and_other, shared_experts };
inline constexpr std::array all_model_parts{
    ModelPart::attention, ModelPart::dense_layers,    ModelPart::embedding_and_head, ModelPart::experts,
    ModelPart::gate,      ModelPart::norms_and_other, ModelPart::shared_experts};

/// "attention", "dense_layers", ...
std::string_view name_of(ModelPart part);
/// The part that a tensor of a checkpoint belongs to, by its name.
ModelPart part_of_tensor(std::string_view tensor);
/// What a weight takes in a model of `type`: embedding and head never go below bf16, gates and norms stay f32. Scales
/// of int8 and what kernels keep beside (absorbed attention's transposes) are not in it.
double bytes_per_parameter(ModelPart part, ComputeType type);

/// Weights by part, counted from the sizes. Pure.
struct ParameterCount {
  std::array<double, all_model_parts.size()> by_part{};

  double operator[](ModelPart part) const { return by_part[static_cast<std::size_t>(part)]; }
  double& operator[](ModelPart part) { return by_part[static_cast<std::size_t>(part)]; }
  double total() const;
  /// Bytes of a rank that holds `share` of the experts.
  double bytes(ComputeType type, double share_of_experts) const;
};

/// The weights of the main model, without MTP modules: what its layers, embedding and head hold.
ParameterCount count_parameters(const ModelConfig& config);

}  // namespace supernode::moe
