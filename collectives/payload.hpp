#pragma once
// What a row travels as.

#include <string_view>

#include "runtime/core/element_type.hpp"

namespace supernode::collectives {

/// int8 (one f32 scale for the row, max |x| / 127, and hidden signed bytes), bf16 or f32.
using Payload = ElementType;

/// "int8", "bf16", "f32". @throws UsageError listing them.
inline Payload parse_payload(std::string_view name) {
  return parse_element_type(name, {Payload::int8, Payload::bf16, Payload::f32}, "payload");
}

}  // namespace supernode::collectives
