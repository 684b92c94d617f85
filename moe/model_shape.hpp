#pragma once
// From a model's config.json to what the cost functions of the emulated machine take: its sizes, and where its experts
// are.

#include <string>

#include "moe/model_config.hpp"
#include "runtime/emulation/model_shape.hpp"
#include "runtime/emulation/moe_stage.hpp"

namespace supernode::moe {

/// The sizes of `config`; the name is left empty. The expert layers must follow the dense ones without a gap: the cost
/// functions know no other order. @throws UsageError "'<key>' ..." for a model without routed experts or with such
/// gaps.
emulation::ModelShape shape_of(const ModelConfig& config);

/// How a Transformer of `config` over `dies` ranks spreads its experts: no copies of any, shared ones on each die. The
/// slots of a record are then the experts in order, as Transformer::routed_rows() counts them.
/// @pre dies >= 1
/// @throws UsageError naming both numbers where experts do not divide evenly: a model then computes, with an expert more
/// on the first ranks, but the cost functions know dies with equally many slots only.
emulation::ExpertLayout expert_layout_of(const ModelConfig& config, int dies);

/// @param name a folder with config.json, such a file, or a name in configs/models. The shape is named after the
/// folder. The sizes only: it makes no difference whether weights are there, or quantised.
/// @throws UsageError naming the file, as parse_model_config() and shape_of() do.
emulation::ModelShape load_model_shape(const std::string& name);

}  // namespace supernode::moe
