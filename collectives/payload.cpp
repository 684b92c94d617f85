#include "collectives/payload.hpp"

#include <string>

#include "runtime/core/error.hpp"

namespace supernode::collectives {

Payload parse_payload(std::string_view name) {
  for (const Payload payload : {Payload::int8, Payload::bf16, Payload::f32})
    if (name_of(payload) == name) return payload;
  throw UsageError("payload '" + std::string(name) + "' unknown; known: int8, bf16, f32");
}

}  // namespace supernode::collectives
