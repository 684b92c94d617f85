#pragma once
// The type in which the model's matrices are held and multiplied.

#include <string_view>

#include "runtime/core/element_type.hpp"

namespace supernode::moe {

/// f32, bf16 or int8. f32 is the reference; norms, gate and head never go below bf16.
using ComputeType = ElementType;

/// The type of what never goes below bf16 in a model of `type`.
constexpr ComputeType at_least_bf16(ComputeType type) { return type == ComputeType::int8 ? ComputeType::bf16 : type; }

/// "f32", "bf16", "int8". @throws UsageError listing them.
inline ComputeType parse_compute_type(std::string_view name) {
  return parse_element_type(name, {ComputeType::f32, ComputeType::bf16, ComputeType::int8}, "type");
}

}  // namespace supernode::moe
