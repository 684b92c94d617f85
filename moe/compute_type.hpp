#pragma once
// The type in which the model's matrices are held and multiplied.

#include <string>

namespace supernode::moe {

/// f32 is the reference; norms, gate and head never go below bf16.
enum class ComputeType { f32, bf16, int8 };

/// "f32", "bf16", "int8"
std::string name_of(ComputeType type);

/// The type of what never goes below bf16 in a model of `type`.
constexpr ComputeType at_least_bf16(ComputeType type) { return type == ComputeType::int8 ? ComputeType::bf16 : type; }

/// "f32", "bf16", "int8". @throws UsageError listing them.
ComputeType parse_compute_type(const std::string& name);

}  // namespace supernode::moe
