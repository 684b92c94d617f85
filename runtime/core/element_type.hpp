#pragma once
// The types of numbers in arrays, files and messages: one name, one size, one spelling.

#include <cstddef>
#include <initializer_list>
#include <string_view>

namespace supernode {

enum class ElementType {
  f64,
  f32,
  f16,
  bf16,  ///< the upper half of an f32; conversions round to nearest even
  i64,
  i32,
  i16,
  int8,
  u8,
  boolean,
};

constexpr std::size_t element_bytes(ElementType type) {
  switch (type) {
    case ElementType::f64:
    case ElementType::i64:
      return 8;
    case ElementType::f32:
    case ElementType::i32:
      return 4;
    case ElementType::f16:
    case ElementType::bf16:
    case ElementType::i16:
      return 2;
    case ElementType::int8:
    case ElementType::u8:
    case ElementType::boolean:
      return 1;
  }
  return 0;
}

/// "f32", "bf16", "int8", ...: as options, results and file attributes spell it.
std::string_view name_of(ElementType type);

/// The type of that name, if it is one of `allowed`. @param what the noun of the message: "payload", "type".
/// @throws UsageError "<what> '<name>' unknown; known: ..." listing `allowed` in its order.
ElementType parse_element_type(std::string_view name, std::initializer_list<ElementType> allowed,
                               std::string_view what);

}  // namespace supernode
