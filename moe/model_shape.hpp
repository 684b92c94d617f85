#pragma once
// From a model's config.json to the sizes that the cost functions of the emulated machine take.

#include <string>

#include "moe/model_config.hpp"
#include "runtime/emulation/model_shape.hpp"

namespace supernode::moe {

/// The sizes of `config`; the name is left empty. The expert layers must follow the dense ones without a gap: the cost
/// functions know no other order. @throws UsageError "'<key>' ..." for a model without routed experts or with such
/// gaps.
emulation::ModelShape shape_of(const ModelConfig& config);

/// @param name a folder with config.json, such a file, or a name in configs/models. The shape is named after the
/// folder. The sizes only: it makes no difference whether weights are there, or quantised.
/// @throws UsageError naming the file, as parse_model_config() and shape_of() do.
emulation::ModelShape load_model_shape(const std::string& name);

}  // namespace supernode::moe
