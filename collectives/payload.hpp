#pragma once
// What a row travels as.

#include <cstddef>
#include <string_view>

namespace supernode::collectives {

enum class Payload {
  int8,  ///< one f32 scale for the row (max |x| / 127) and hidden signed bytes
  bf16,  ///< rounded to nearest even
  f32,
};

constexpr std::size_t element_bytes(Payload payload) {
  return payload == Payload::int8 ? 1 : payload == Payload::bf16 ? 2 : 4;
}

constexpr std::string_view name_of(Payload payload) {
  return payload == Payload::int8 ? "int8" : payload == Payload::bf16 ? "bf16" : "f32";
}

/// "int8", "bf16", "f32". @throws UsageError listing them.
Payload parse_payload(std::string_view name);

}  // namespace supernode::collectives
