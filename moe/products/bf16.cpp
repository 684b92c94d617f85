#include "moe/products/bf16.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>

#include "runtime/core/quantise.hpp"

namespace supernode::moe {

bool is_bf16(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(),
                     [](float value) { return (std::bit_cast<std::uint32_t>(value) & 0xffffu) == 0; });
}

void to_bf16(std::span<const float> values, std::uint16_t* halves) {
  std::byte* const to = reinterpret_cast<std::byte*>(halves);
  write_row(ElementType::bf16, values, {}, {&to, 1});
}

}  // namespace supernode::moe
