#pragma once
// f32 to bf16 and whether anything is lost by it.

#include <cstdint>
#include <span>

namespace supernode::moe {

/// Whether rounding to bf16 loses nothing.
bool is_bf16(std::span<const float> values);

/// Rounds to the nearest, ties to even; writes as many as there are values.
void to_bf16(std::span<const float> values, std::uint16_t* halves);

}  // namespace supernode::moe
