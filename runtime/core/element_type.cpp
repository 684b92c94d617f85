#include "runtime/core/element_type.hpp"

#include <string>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode {

std::string_view name_of(ElementType type) {
  switch (type) {
    case ElementType::f64:
      return "f64";
    case ElementType::f32:
      return "f32";
    case ElementType::f16:
      return "f16";
    case ElementType::bf16:
      return "bf16";
    case ElementType::i64:
      return "i64";
    case ElementType::i32:
      return "i32";
    case ElementType::i16:
      return "i16";
    case ElementType::int8:
      return "int8";
    case ElementType::u8:
      return "u8";
    case ElementType::boolean:
      return "boolean";
  }
  return "";
}

ElementType parse_element_type(std::string_view name, std::initializer_list<ElementType> allowed,
                               std::string_view what) {
  std::string known;
  for (const ElementType type : allowed) {
    if (name_of(type) == name) return type;
    known += (known.empty() ? "" : ", ") + std::string(name_of(type));
  }
  throw UsageError(fmt::format("{} '{}' unknown; known: {}", what, name, known));
}

}  // namespace supernode
