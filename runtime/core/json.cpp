#include "runtime/core/json.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"

template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace supernode {

Json parse_json(std::string_view text, const std::string& source) {
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    // nlohmann's text repeats its own error number and may quote binary garbage; the place is what helps.
    throw UsageError(fmt::format("{}: not valid JSON at byte {}", source, error.byte));
  } catch (const Json::out_of_range&) {
    throw UsageError(fmt::format("{}: not valid JSON: a number is too large", source));
  }
}

std::optional<Json> parse_if_json(std::string_view text) {
  constexpr bool may_throw = false;
  Json json = Json::parse(text, nullptr, may_throw);
  if (json.is_discarded()) return std::nullopt;
  return json;
}

std::string to_text(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string valid_utf8(std::string_view text) { return Json::parse(to_text(Json(text))).get<std::string>(); }

}  // namespace supernode
