#include "moe/compute_type.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::moe {

std::string name_of(ComputeType type) {
  return type == ComputeType::f32 ? "f32" : type == ComputeType::bf16 ? "bf16" : "int8";
}

ComputeType parse_compute_type(const std::string& name) {
  if (name == "f32") return ComputeType::f32;
  if (name == "bf16") return ComputeType::bf16;
  if (name == "int8") return ComputeType::int8;
  throw UsageError(fmt::format("type '{}' unknown; known: f32, bf16, int8", name));
}

}  // namespace supernode::moe
